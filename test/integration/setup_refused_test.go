package integration

import (
	"regexp"
	"strings"
	"testing"

	"github.com/go-sql-driver/mysql"

	"github.com/strongroom-dev/strongroom/test/servertest"
)

// TestSetupNamesRefusedSetting proves that setup exits without waiting if a store refuses a user's credentials or a
// privilege, because waiting cannot help. The last log line must name the setting, so that the operator can find the
// cause.
func TestSetupNamesRefusedSetting(t *testing.T) {
	mysqlAdmin, dsn := servertest.MySQL(t).NewDatabase(t)
	mongo := servertest.MongoDB(t)
	mongoAdmin := mongo.NewDatabase(t)
	mongoURI := mongo.NewUser(t, mongoAdmin)
	broker := servertest.RabbitMQ(t).NewVhost(t)
	binary := build(t, "setup")
	settings := map[string]string{
		"MYSQL_DSN": dsn, "MYSQL_ADMIN_DSN": mysqlAdmin, "MONGODB_URI": mongoURI, "MONGODB_ADMIN_URI": mongoAdmin, "EVENTS_ADMIN_URL": broker.URL,
	}
	run := func(t *testing.T, changes map[string]string) (string, error) {
		t.Helper()
		var environment []string
		for name, value := range settings {
			if changed, ok := changes[name]; ok {
				value = changed
			}
			environment = append(environment, name+"="+value)
		}
		return runSetup(t.Context(), binary, environment...)
	}
	if log, err := run(t, nil); err != nil {
		t.Fatalf("run setup with the correct settings: %v\n%s", err, log)
	}

	other, _ := servertest.MySQL(t).NewDatabase(t)
	_, otherDSN := servertest.MySQL(t).NewDatabase(t)
	if log, err := runSetup(t.Context(), binary, "MYSQL_DSN="+otherDSN, "MYSQL_ADMIN_DSN="+other, "MONGODB_URI="+mongoAdmin); err != nil {
		t.Fatalf("run setup for another database: %v\n%s", err, log)
	}
	cases := []struct {
		name    string
		changes map[string]string
		setting string
	}{
		{"MySQL: the administrator's password", map[string]string{"MYSQL_ADMIN_DSN": withMySQLPassword(t, mysqlAdmin, "wrong")}, "MYSQL_ADMIN_DSN"},
		{"MySQL: the administrator's privileges", map[string]string{"MYSQL_ADMIN_DSN": otherDSN}, "MYSQL_ADMIN_DSN"},
		{"MySQL: the runtime user's password", map[string]string{"MYSQL_ADMIN_DSN": "", "MYSQL_DSN": withMySQLPassword(t, dsn, "wrong")}, "MYSQL_DSN"},
		{"RabbitMQ: the password", map[string]string{"EVENTS_ADMIN_URL": servertest.WithPassword(t, broker.URL, "wrong")}, "EVENTS_ADMIN_URL"},
		{"RabbitMQ: no permission to configure", map[string]string{"EVENTS_ADMIN_URL": broker.NewUser(t, servertest.Permissions{Configure: "^$", Write: ".*", Read: ".*"})}, "EVENTS_ADMIN_URL"},
		{"RabbitMQ: no permission to bind", map[string]string{"EVENTS_ADMIN_URL": broker.NewUser(t, servertest.Permissions{Configure: ".*", Write: "^$", Read: "^$"})}, "EVENTS_ADMIN_URL"},
	}
	if mongoURI == mongoAdmin {
		t.Log("NOT TESTED: the private FerretDB has no users, so it does not refuse MongoDB credentials")
	} else {
		cases = append(cases, []struct {
			name    string
			changes map[string]string
			setting string
		}{
			{"MongoDB: the administrator's password", map[string]string{"MONGODB_ADMIN_URI": servertest.WithPassword(t, mongoAdmin, "wrong")}, "MONGODB_ADMIN_URI"},
			{"MongoDB: the runtime user's password", map[string]string{"MONGODB_ADMIN_URI": "", "MONGODB_URI": servertest.WithPassword(t, mongoURI, "wrong")}, "MONGODB_URI"},
		}...)
	}
	for _, test := range cases {
		t.Run(test.name, func(t *testing.T) {
			log, err := run(t, test.changes)
			if err == nil {
				t.Fatalf("setup succeeded, want an error:\n%s", log)
			}
			var last string
			for line := range strings.Lines(log) {
				last = line
			}
			if !regexp.MustCompile(`: ` + test.setting + `_FILE: (MySQL|RabbitMQ|MongoDB) denied the user access: `).MatchString(last) {
				t.Errorf("the last line does not name %s_FILE:\n%s", test.setting, log)
			}
			if strings.Contains(log, "gave up waiting") || strings.Contains(log, `"waiting until`) {
				t.Errorf("setup waited, want an immediate exit:\n%s", log)
			}
		})
	}
}

// withMySQLPassword returns dsn with another password.
func withMySQLPassword(t *testing.T, dsn, password string) string {
	t.Helper()
	cfg, err := mysql.ParseDSN(dsn)
	if err != nil {
		t.Fatal(err)
	}
	cfg.Passwd = password
	return cfg.FormatDSN()
}
