package accounts

import (
	"context"
	"crypto/tls"
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

// The MySQL, MariaDB and TiDB error numbers that this package handles.
const (
	errRecordChanged          = 1020
	errTooManyConnections     = 1040
	errDatabaseAccessDenied   = 1044
	errAccessDenied           = 1045
	errUnknownDatabase        = 1049
	errServerShutdown         = 1053
	errDuplicate              = 1062
	errHostNotAllowed         = 1130
	errUnknown                = 1105 // TiDB uses this number for errors without a number of their own
	errTableAccessDenied      = 1142
	errColumnAccessDenied     = 1143
	errNoSuchTable            = 1146
	errUserTooManyConnections = 1203
	errLockWait               = 1205
	errDeadlock               = 1213
	errResourceLimit          = 1226
	errPrivilegeNeeded        = 1227
	errOutOfRange             = 1264
	errInterrupted            = 1317
	errRoutineAccessDenied    = 1370
	errCannotCreateByGrant    = 1410
	errAccessDeniedNoPassword = 1698
	errDataOutOfRange         = 1690
	errPasswordMustChange     = 1820
	errPasswordExpired        = 1862
	errKilled                 = 1927
	errStatementTimeout       = 1969
	errQueryTimeout           = 3024
	errReplicationHook        = 3100 // Group Replication rejects the transaction, for example because the server leaves the group
	errRolledBackAtCommit     = 3101 // the transaction conflicts with a transaction on another server of the group
	errAccountLocked          = 3118
	errServerUnavailable      = 3168
	errSessionKilled          = 3169
	errIdleTooLong            = 4031
	errTiDBAccessDenied       = 8121
	errTiDBFirst              = 9001 // 9001 to 9007 mean that TiDB's storage is unavailable or busy, or that transactions conflict
	errTiDBLockTimeout        = 9004
	errTiDBWriteConflict      = 9007
)

// refusals lists the error numbers for rejected credentials or missing privileges. Such errors recur until the
// setup Job has created the MySQL user, or until an operator fixes the credentials or privileges.
var refusals = []uint16{errDatabaseAccessDenied, errAccessDenied, errHostNotAllowed, errTableAccessDenied, errColumnAccessDenied,
	errPrivilegeNeeded, errRoutineAccessDenied, errCannotCreateByGrant, errAccessDeniedNoPassword, errPasswordMustChange,
	errPasswordExpired, errAccountLocked, errTiDBAccessDenied}

// busy lists the error numbers for a server that is overloaded or shutting down, for a statement that the server
// aborted, and for a session that the server ended. The driver returns driver.ErrBadConn if the server is read-only
// (mysql.Config.RejectReadOnly).
var busy = []uint16{errTooManyConnections, errUserTooManyConnections, errResourceLimit, errServerShutdown, errLockWait, errDeadlock,
	errRecordChanged, errInterrupted, errKilled, errStatementTimeout, errQueryTimeout, errReplicationHook, errRolledBackAtCommit,
	errServerUnavailable, errSessionKilled, errIdleTooLong}

// away lists the errors that report an unreachable database server.
var away = []error{driver.ErrBadConn, mysql.ErrInvalidConn, sql.ErrConnDone, io.EOF, io.ErrUnexpectedEOF, context.DeadlineExceeded}

// Refused prefixes an error with the name of a setting if the server rejected the setting's credentials, or if the
// setting's user lacks a privilege. It returns any other error unchanged.
func Refused(setting string, err error) error {
	var server *mysql.MySQLError
	if errors.As(err, &server) && slices.Contains(refusals, server.Number) {
		// Do not wrap err, because it can be a problem.Unavailable, which would cause retries that cannot succeed.
		return fmt.Errorf("%s: MySQL denied the user access: %w", setting, server)
	}
	return err
}

// fail prefixes a database error with the action that failed, and converts the error to a problem.Unavailable or a
// problem.Conflict if the cause is known. It returns a problem.Problem unchanged.
func fail(action string, err error) error {
	var known *problem.Problem
	if err == nil || errors.As(err, &known) {
		return err
	}
	err = fmt.Errorf("%s: %w", action, err)
	var server *mysql.MySQLError
	if errors.As(err, &server) {
		switch n := server.Number; {
		case n == errDuplicate:
			return problem.Conflict.Because(err, "the record already exists")
		case slices.Contains(busy, n), n >= errTiDBFirst && n <= errTiDBWriteConflict, conflicted(err):
			return problem.Unavailable.Because(err, "the account store is busy")
		case n == errUnknownDatabase, n == errNoSuchTable, slices.Contains(refusals, n):
			// On a new cluster, the database and its tables do not exist until the setup Job has completed.
			return problem.Unavailable.Because(err, "the account store is not set up")
		}
		return err
	}
	var certificate *tls.CertificateVerificationError
	if errors.As(err, &certificate) || errors.Is(err, mysql.ErrNoTLS) {
		return problem.Unavailable.Because(err, "the account store is not set up")
	}
	var network net.Error
	isCause := func(cause error) bool { return errors.Is(err, cause) }
	if slices.ContainsFunc(away, isCause) || errors.As(err, &network) {
		return problem.Unavailable.Because(err, "the account store is unavailable")
	}
	return err
}

// timedOut returns err. If ctx is done, the returned error also wraps ctx.Err(), because database/sql and the driver
// sometimes return errors that do not wrap ctx.Err().
func timedOut(ctx context.Context, err error) error {
	if err == nil || ctx.Err() == nil || errors.Is(err, ctx.Err()) {
		return err
	}
	return fmt.Errorf("%w: %w", ctx.Err(), err)
}

// lostConnection reports whether a query might have failed only because its connection was broken. Such a query can
// succeed on another connection.
func lostConnection(err error) bool {
	return errors.Is(err, driver.ErrBadConn) || errors.Is(err, mysql.ErrInvalidConn)
}

// conflicted reports whether a transaction failed because it conflicted with other transactions. Such a transaction can
// succeed if it runs again from the beginning.
func conflicted(err error) bool {
	var server *mysql.MySQLError
	if !errors.As(err, &server) {
		return false
	}
	switch server.Number {
	case errUnknown:
		return strings.Contains(server.Message, "pessimistic lock retry limit")
	case errDeadlock, errLockWait, errRecordChanged, errRolledBackAtCommit, errTiDBLockTimeout, errTiDBWriteConflict:
		return true
	}
	return false
}
