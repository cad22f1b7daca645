package accounts

import (
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"strings"
	"time"

	"github.com/go-sql-driver/mysql"
)

const (
	dialTimeout = 3 * time.Second
	ioTimeout   = 5 * time.Second
)

// session is what every connection sets. The lock wait is shorter than ioTimeout, so that a wait for a row that takes
// too long ends in an error of the server and not in a broken connection.
var session = map[string]string{
	"time_zone":                "'+00:00'",
	"sql_mode":                 "'STRICT_ALL_TABLES,NO_ZERO_IN_DATE,NO_ZERO_DATE,ERROR_FOR_DIVISION_BY_ZERO,NO_ENGINE_SUBSTITUTION'",
	"innodb_lock_wait_timeout": "3",
}

// parseDSN reads a data source name of go-sql-driver, user:password@tcp(host:3306)/database, and completes it with
// what this package relies on. Time-outs that it names are kept. Errors do not show it: it has a password in it.
func parseDSN(dsn string) (*mysql.Config, error) {
	cfg, err := mysql.ParseDSN(dsn)
	if err != nil {
		// The driver's own messages of this form are constants; others quote a part of the DSN, maybe the password.
		if strings.HasPrefix(err.Error(), "invalid DSN:") {
			return nil, err
		}
		return nil, errors.New("invalid DSN: want user:password@tcp(host:3306)/database")
	}
	if cfg.User == "" || cfg.DBName == "" {
		return nil, errors.New("invalid DSN: it must name a user and a database, as in user:password@tcp(host:3306)/database")
	}
	if cfg.Timeout == 0 {
		cfg.Timeout = dialTimeout
	}
	if cfg.ReadTimeout == 0 {
		cfg.ReadTimeout = ioTimeout
	}
	if cfg.WriteTimeout == 0 {
		cfg.WriteTimeout = ioTimeout
	}
	cfg.ParseTime = true
	cfg.Loc = time.UTC
	cfg.InterpolateParams = true // saves a round trip a query
	cfg.MultiStatements = false
	cfg.AllowAllFiles = false
	cfg.ClientFoundRows = true // an update that matches counts, whether or not it changes anything
	cfg.Logger = driverLog{}
	if cfg.Params == nil {
		cfg.Params = map[string]string{}
	}
	maps.Copy(cfg.Params, session)
	return cfg, nil
}

// driverLog takes what the driver reports of broken connections; the errors themselves reach the callers.
type driverLog struct{}

func (driverLog) Print(v ...any) { slog.Debug("mysql driver", "message", fmt.Sprint(v...)) }
