package accounts

import (
	"cmp"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"strings"
	"time"

	"github.com/go-sql-driver/mysql"

	"github.com/strongroom-dev/strongroom/shared/dialer"
)

const (
	dialTimeout = 3 * time.Second
	ioTimeout   = 5 * time.Second
)

// session contains the MySQL session variables that are set for every connection.
var session = map[string]string{
	"time_zone":                "'+00:00'",
	"sql_mode":                 "'STRICT_ALL_TABLES,NO_ZERO_IN_DATE,NO_ZERO_DATE,ERROR_FOR_DIVISION_BY_ZERO,NO_ENGINE_SUBSTITUTION'",
	"innodb_lock_wait_timeout": "3", // seconds; below ioTimeout, so that a lock wait does not break the connection
}

// parseDSN parses a data source name, such as user:password@tcp(host:3306)/database, and adds required options and
// default timeouts. Its errors do not show dsn, because dsn contains a password.
func parseDSN(dsn string) (*mysql.Config, error) {
	cfg, err := mysql.ParseDSN(dsn)
	if err != nil {
		// Return only errors that begin with "invalid DSN:". The driver's other errors quote a part of the DSN and
		// might therefore contain the password.
		if strings.HasPrefix(err.Error(), "invalid DSN:") {
			return nil, err
		}
		return nil, errors.New("invalid DSN: want user:password@tcp(host:3306)/database")
	}
	if cfg.User == "" || cfg.DBName == "" {
		return nil, errors.New("invalid DSN: it must contain a user name and a database name, as in user:password@tcp(host:3306)/database")
	}
	if cfg.AllowFallbackToPlaintext || cfg.TLS != nil && cfg.TLS.InsecureSkipVerify {
		return nil, errors.New("invalid DSN: it must not contain tls=skip-verify, tls=preferred or allowFallbackToPlaintext=true, because the identity of the server must be verified: set tls=true")
	}
	cfg.Timeout = cmp.Or(cfg.Timeout, dialTimeout)
	cfg.ReadTimeout = cmp.Or(cfg.ReadTimeout, ioTimeout)
	cfg.WriteTimeout = cmp.Or(cfg.WriteTimeout, ioTimeout)
	cfg.ParseTime = true
	cfg.Loc = time.UTC
	cfg.InterpolateParams = true // saves one round trip per query
	cfg.RejectReadOnly = true    // after a failover, close the connections to a server that has become read-only
	cfg.MultiStatements = false
	cfg.AllowAllFiles = false
	cfg.ClientFoundRows = true // RowsAffected also counts rows that an UPDATE matches but does not change
	cfg.Logger = driverLog{}
	cfg.DialFunc = dialer.DialContext
	if cfg.Params == nil {
		cfg.Params = map[string]string{}
	}
	maps.Copy(cfg.Params, session)
	return cfg, nil
}

// driverLog logs the MySQL driver's messages about broken connections. It logs them only at debug level, because the
// driver also returns an error to its caller.
type driverLog struct{}

func (driverLog) Print(v ...any) { slog.Debug("MySQL driver message", "message", fmt.Sprint(v...)) }
