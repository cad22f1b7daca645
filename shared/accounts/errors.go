package accounts

import (
	"context"
	"database/sql"
	"database/sql/driver"
	"errors"
	"fmt"
	"io"
	"net"
	"slices"
	"strings"

	"github.com/go-sql-driver/mysql"

	"github.com/strongroom-dev/strongroom/shared/problem"
)

// Error numbers of MySQL, MariaDB and TiDB that this package knows.
const (
	errRecordChanged          = 1020
	errTooManyConnections     = 1040
	errDatabaseAccessDenied   = 1044
	errAccessDenied           = 1045
	errUnknownDatabase        = 1049
	errServerShutdown         = 1053
	errDuplicate              = 1062
	errHostNotAllowed         = 1130
	errUnknown                = 1105 // TiDB's for what has no number of its own
	errTableAccessDenied      = 1142
	errColumnAccessDenied     = 1143
	errNoSuchTable            = 1146
	errUserTooManyConnections = 1203
	errLockWait               = 1205
	errDeadlock               = 1213
	errResourceLimit          = 1226
	errPrivilegeNeeded        = 1227
	errReadOnly               = 1290
	errInterrupted            = 1317
	errRoutineAccessDenied    = 1370
	errCannotCreateByGrant    = 1410
	errAccessDeniedNoPassword = 1698
	errPasswordMustChange     = 1820
	errReadOnlyMode           = 1836
	errPasswordExpired        = 1862
	errKilled                 = 1927
	errStatementTimeout       = 1969
	errQueryTimeout           = 3024
	errAccountLocked          = 3118
	errTiDBAccessDenied       = 8121
	errTiDBFirst              = 9001 // 9001 to 9007: its storage is away, busy or in conflict
	errTiDBLockTimeout        = 9004
	errTiDBWriteConflict      = 9007
)

// refusals are the errors of a server that refuses the credentials or a privilege of a user. They last until somebody
// changes that user. On a new cluster, the functions get them until the setup Job has created their user.
var refusals = []uint16{errDatabaseAccessDenied, errAccessDenied, errHostNotAllowed, errTableAccessDenied, errColumnAccessDenied,
	errPrivilegeNeeded, errRoutineAccessDenied, errCannotCreateByGrant, errAccessDeniedNoPassword, errPasswordMustChange,
	errPasswordExpired, errAccountLocked, errTiDBAccessDenied}

// Refused returns what the server said, with the name of the setting that has the user's credentials, if err says that
// the server refuses the credentials or a privilege of that user. It returns any other err unchanged. The result does not
// wrap problem.Unavailable: waiting does not help.
func Refused(setting string, err error) error {
	var server *mysql.MySQLError
	if errors.As(err, &server) && slices.Contains(refusals, server.Number) {
		return fmt.Errorf("%s: the server refuses the user: %w", setting, server)
	}
	return err
}

// fail tells what err is to a client: that the store is away or busy is a problem.Unavailable, that a key is taken a
// problem.Conflict, anything else internal. doing goes into the log.
func fail(doing string, err error) error {
	var known *problem.Problem
	if err == nil || errors.As(err, &known) {
		return err
	}
	err = fmt.Errorf("%s: %w", doing, err)
	var server *mysql.MySQLError
	if errors.As(err, &server) {
		switch n := server.Number; n {
		case errDuplicate:
			return problem.Conflict.Because(err, "there is one already")
		case errTooManyConnections, errUserTooManyConnections, errResourceLimit, errServerShutdown, errLockWait, errDeadlock,
			errRecordChanged, errReadOnly, errReadOnlyMode, errInterrupted, errKilled, errStatementTimeout, errQueryTimeout:
			return problem.Unavailable.Because(err, "the account store is busy")
		case errUnknownDatabase, errNoSuchTable:
			// The setup Job of a new cluster has not ended yet.
			return problem.Unavailable.Because(err, "the account store is not set up")
		default:
			if slices.Contains(refusals, n) {
				return problem.Unavailable.Because(err, "the account store is not set up")
			}
			if n >= errTiDBFirst && n <= errTiDBWriteConflict || conflicted(err) {
				return problem.Unavailable.Because(err, "the account store is busy")
			}
			return err
		}
	}
	var network net.Error
	for _, away := range []error{driver.ErrBadConn, mysql.ErrInvalidConn, sql.ErrConnDone, io.EOF, io.ErrUnexpectedEOF, context.DeadlineExceeded} {
		if errors.Is(err, away) {
			return problem.Unavailable.Because(err, "the account store is away")
		}
	}
	if errors.As(err, &network) {
		return problem.Unavailable.Because(err, "the account store is away")
	}
	return err
}

// timedOut lets err wrap the reason for which ctx ended, if it did: database/sql and the driver have several errors for
// what they were doing then.
func timedOut(ctx context.Context, err error) error {
	if err == nil || ctx.Err() == nil || errors.Is(err, ctx.Err()) {
		return err
	}
	return fmt.Errorf("%w: %w", ctx.Err(), err)
}

// lostConnection tells whether a query may have failed only because its connection had died unnoticed.
func lostConnection(err error) bool {
	return errors.Is(err, driver.ErrBadConn) || errors.Is(err, mysql.ErrInvalidConn)
}

// conflicted tells whether a transaction was undone because of others, so that it may be tried again as a whole.
func conflicted(err error) bool {
	var server *mysql.MySQLError
	if !errors.As(err, &server) {
		return false
	}
	switch server.Number {
	case errUnknown:
		return strings.Contains(server.Message, "pessimistic lock retry limit")
	case errDeadlock, errLockWait, errRecordChanged, errTiDBLockTimeout, errTiDBWriteConflict:
		return true
	}
	return false
}
