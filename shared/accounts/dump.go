package accounts

import (
	"bufio"
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"path"
	"slices"
	"strconv"
	"strings"

	"github.com/go-sql-driver/mysql"
	"github.com/pressly/goose/v3"
)

const (
	// rowsAtOnce is the maximum number of rows that Load inserts with one statement.
	rowsAtOnce = 100
	// maxLine is the maximum length of a line in a dump, in bytes. The longest row has less than 16 KiB.
	maxLine = 64 << 10
)

// dumpHeader is the first line of a dump.
type dumpHeader struct {
	// Schema is the version of the last migration.
	Schema int64 `json:"schema"`
}

// dumpRow is each further line of a dump.
type dumpRow struct {
	Table string `json:"table"`
	// Values contains the values by column. A NULL value is null. The JSON form of the other values is base64.
	Values map[string][]byte `json:"values"`
}

// Dump writes all rows of the account store to w as JSON lines. The rows are from a single point in time. Dump returns
// the number of rows. The user that dsn names must be able to read the tables.
func Dump(ctx context.Context, dsn string, w io.Writer) (rows int, err error) {
	cfg, err := parseDSN(dsn)
	if err != nil {
		return 0, err
	}
	cfg.ReadTimeout = max(cfg.ReadTimeout, migrateTimeout)
	cfg.ParseTime = false // a dump contains times as MySQL formats them
	err = withDB(cfg, func(db *sql.DB) error {
		tx, err := db.BeginTx(ctx, &sql.TxOptions{Isolation: sql.LevelRepeatableRead})
		if err != nil {
			return err
		}
		defer func() { _ = tx.Rollback() }() // the transaction only reads
		encoder := json.NewEncoder(w)
		// Read the version of the tables, because a newer version of setup can have changed them.
		var header dumpHeader
		query := "SELECT MAX(version_id) FROM " + goose.DefaultTablename + " WHERE is_applied"
		if err := tx.QueryRowContext(ctx, query).Scan(&header.Schema); err != nil {
			return fmt.Errorf("read the version of the tables: %w", err)
		}
		if err := encoder.Encode(header); err != nil {
			return err
		}
		tables, err := queryAll(ctx, tx, scanValue[string], tablesQuery, cfg.DBName)
		if err != nil {
			return err
		}
		for _, table := range tables {
			if table == goose.DefaultTablename {
				continue
			}
			n, err := dumpTable(ctx, tx, table, encoder)
			if err != nil {
				return fmt.Errorf("table %s: %w", table, err)
			}
			rows += n
		}
		return nil
	})
	return rows, fail("dump the account store", err)
}

// latestMigration returns the version of the last embedded migration.
func latestMigration() (latest int64, err error) {
	files, err := fs.ReadDir(migrations, "migrations")
	if err != nil {
		return 0, fmt.Errorf("list embedded migrations: %w", err)
	}
	for _, file := range files {
		number, _, _ := strings.Cut(path.Base(file.Name()), "_")
		version, err := strconv.ParseInt(number, 10, 64)
		if err != nil {
			return 0, fmt.Errorf("read the version of migration %s: %w", file.Name(), err)
		}
		latest = max(latest, version)
	}
	return latest, nil
}

// dumpTable writes the rows of a table.
func dumpTable(ctx context.Context, tx *sql.Tx, table string, to *json.Encoder) (n int, err error) {
	rows, err := tx.QueryContext(ctx, "SELECT * FROM "+quoteName(table))
	if err != nil {
		return 0, err
	}
	defer func() { _ = rows.Close() }() // rows.Err returns read errors
	columns, err := rows.Columns()
	if err != nil {
		return 0, err
	}
	values, targets := make([][]byte, len(columns)), make([]any, len(columns))
	for i := range values {
		targets[i] = &values[i]
	}
	for rows.Next() {
		if err := rows.Scan(targets...); err != nil {
			return n, err
		}
		row := dumpRow{Table: table, Values: make(map[string][]byte, len(columns))}
		for i, column := range columns {
			row.Values[column] = values[i]
		}
		if err := to.Encode(row); err != nil {
			return n, err
		}
		n++
	}
	return n, rows.Err()
}

// quoteName quotes the name of a table or a column.
func quoteName(name string) string { return "`" + strings.ReplaceAll(name, "`", "``") + "`" }

// CheckLoad returns an error if Load cannot load the dump, because the dump has an unsupported version, or because the
// user cannot delete and create tables. The arguments are those of Load. CheckLoad changes no data.
func CheckLoad(ctx context.Context, adminDSN, dsn string, dump io.Reader) error {
	cfg, setting, err := loadConfig(adminDSN, dsn)
	if err != nil {
		return err
	}
	if _, err := readHeader(dumpLines(dump)); err != nil {
		return err
	}
	err = withDB(cfg, func(db *sql.DB) error {
		// Delete the table first, so that no table remains if the user can create tables, but cannot delete tables.
		for _, statement := range []string{"DROP TABLE IF EXISTS load_check", "CREATE TABLE load_check (id INT PRIMARY KEY)", "DROP TABLE load_check"} {
			if _, err := db.ExecContext(ctx, statement); err != nil {
				return err
			}
		}
		return nil
	})
	return Refused(setting, fail("check whether the user can delete and create tables", err))
}

// Load replaces all data of the account store with the rows of a dump. It connects as the administrator that adminDSN
// names, to the database that dsn names. If adminDSN is empty, it connects as the user that dsn names. While Load runs,
// the tables are incomplete. After an error, call Load again.
func Load(ctx context.Context, adminDSN, dsn string, dump io.Reader) (rows int, err error) {
	cfg, setting, err := loadConfig(adminDSN, dsn)
	if err != nil {
		return 0, err
	}
	lines := dumpLines(dump)
	schema, err := readHeader(lines)
	if err != nil {
		return 0, err
	}
	err = withDB(cfg, func(db *sql.DB) error {
		if err := dropTables(ctx, db, cfg.DBName); err != nil {
			return err
		}
		// Create the tables of the version of the dump, so that the later migrations also change the rows of the dump.
		if err := migrate(ctx, cfg, schema); err != nil {
			return err
		}
		rows, err = insertRows(ctx, db, lines)
		if err != nil {
			return err
		}
		return migrate(ctx, cfg, goose.MaxVersion)
	})
	return rows, Refused(setting, fail("load a dump into the account store", err))
}

// loadConfig returns the configuration of the connection for Load, and the setting that errors name.
func loadConfig(adminDSN, dsn string) (cfg *mysql.Config, setting string, err error) {
	cfg, err = parseDSN(dsn)
	if err != nil {
		return nil, "", fmt.Errorf("MYSQL_DSN_FILE: %w", err)
	}
	setting = "MYSQL_ADMIN_DSN_FILE is not set, and the tables cannot be replaced: MYSQL_DSN_FILE"
	if adminDSN != "" {
		setting = "MYSQL_ADMIN_DSN_FILE"
		if cfg, err = adminConfig(adminDSN, cfg.DBName); err != nil {
			return nil, "", err
		}
	}
	cfg.ReadTimeout = max(cfg.ReadTimeout, migrateTimeout)
	return cfg, setting, nil
}

// dumpLines returns a scanner for the lines of a dump.
func dumpLines(dump io.Reader) *bufio.Scanner {
	lines := bufio.NewScanner(dump)
	lines.Buffer(nil, maxLine)
	return lines
}

// readHeader reads the first line of a dump, and returns the version of the tables. It returns an error if this program
// does not support the version.
func readHeader(lines *bufio.Scanner) (schema int64, err error) {
	var header dumpHeader
	if err := nextLine(lines, &header); err != nil {
		return 0, err
	}
	latest, err := latestMigration()
	if err != nil {
		return 0, err
	}
	if header.Schema < 1 || header.Schema > latest {
		return 0, fmt.Errorf("the dump has version %d of the tables, but this program supports only the versions 1 to %d", header.Schema, latest)
	}
	return header.Schema, nil
}

// dropTables deletes all tables of a database.
func dropTables(ctx context.Context, db *sql.DB, database string) error {
	tables, err := queryAll(ctx, db, scanValue[string], tablesQuery, database)
	if err != nil {
		return err
	}
	for _, table := range tables {
		if _, err := db.ExecContext(ctx, "DROP TABLE IF EXISTS "+quoteName(table)); err != nil {
			return err
		}
	}
	return nil
}

// nextLine decodes the next line of a dump. The error is io.EOF after the last line.
func nextLine(lines *bufio.Scanner, into any) error {
	if !lines.Scan() {
		if err := lines.Err(); err != nil {
			return fmt.Errorf("read the dump: %w", err)
		}
		return io.EOF
	}
	if err := json.Unmarshal(lines.Bytes(), into); err != nil {
		return fmt.Errorf("read the dump: %w", err)
	}
	return nil
}

// insertRows inserts the rows in the remaining lines of a dump.
func insertRows(ctx context.Context, db *sql.DB, lines *bufio.Scanner) (n int, err error) {
	var batch []dumpRow
	for {
		var row dumpRow
		err := nextLine(lines, &row)
		if err != nil && !errors.Is(err, io.EOF) {
			return n, err
		}
		if last := errors.Is(err, io.EOF); last || len(batch) == rowsAtOnce || len(batch) > 0 && batch[0].Table != row.Table {
			if err := insertBatch(ctx, db, batch); err != nil {
				return n, err
			}
			n += len(batch)
			batch = batch[:0]
			if last {
				return n, nil
			}
		}
		batch = append(batch, row)
	}
}

// insertBatch inserts rows of one table with one statement.
func insertBatch(ctx context.Context, db *sql.DB, batch []dumpRow) error {
	if len(batch) == 0 {
		return nil
	}
	columns := slices.Sorted(maps.Keys(batch[0].Values))
	if len(columns) == 0 {
		return fmt.Errorf("insert rows into table %s: a row of the dump has no values", batch[0].Table)
	}
	names := make([]string, len(columns))
	for i, column := range columns {
		names[i] = quoteName(column)
	}
	group := "(?" + strings.Repeat(", ?", len(columns)-1) + ")"
	var values []any
	for _, row := range batch {
		if len(row.Values) != len(columns) {
			return fmt.Errorf("insert rows into table %s: the rows of the dump have different columns", row.Table)
		}
		for _, column := range columns {
			value, ok := row.Values[column]
			if !ok {
				return fmt.Errorf("insert rows into table %s: the rows of the dump have different columns", row.Table)
			}
			if value == nil {
				values = append(values, nil)
			} else {
				values = append(values, value)
			}
		}
	}
	_, err := db.ExecContext(ctx, "INSERT INTO "+quoteName(batch[0].Table)+" ("+strings.Join(names, ", ")+") VALUES "+
		group+strings.Repeat(", "+group, len(batch)-1), values...)
	return err
}

// withDB opens the database in cfg, calls action, and closes the database.
func withDB(cfg *mysql.Config, action func(db *sql.DB) error) error {
	db, err := openDB(cfg)
	if err != nil {
		return err
	}
	return errors.Join(action(db), db.Close())
}

// CountUsers returns the number of users.
func (s *Store) CountUsers(ctx context.Context) (n int, err error) {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	err = s.db.QueryRowContext(ctx, "SELECT COUNT(*) FROM users").Scan(&n)
	return n, fail("count the users", err)
}
