package main

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/pingcap/tidb/pkg/config"
	"github.com/pingcap/tidb/pkg/ddl"
	"github.com/pingcap/tidb/pkg/domain"
	"github.com/pingcap/tidb/pkg/executor"
	"github.com/pingcap/tidb/pkg/executor/mppcoordmanager"
	"github.com/pingcap/tidb/pkg/extension"
	"github.com/pingcap/tidb/pkg/kv"
	"github.com/pingcap/tidb/pkg/metrics"
	"github.com/pingcap/tidb/pkg/resourcemanager"
	"github.com/pingcap/tidb/pkg/server"
	"github.com/pingcap/tidb/pkg/session"
	kvstore "github.com/pingcap/tidb/pkg/store"
	"github.com/pingcap/tidb/pkg/store/copr"
	"github.com/pingcap/tidb/pkg/store/mockstore"
	unistore "github.com/pingcap/tidb/pkg/store/mockstore/unistore/config"
	"github.com/pingcap/tidb/pkg/util/logutil"
	"github.com/tikv/client-go/v2/tikv"
)

// tidb is a TiDB server with its storage.
type tidb struct {
	storage kv.Storage
	domain  *domain.Domain
	server  *server.Server
}

// configure sets TiDB's global configuration. It must be called before open.
func configure(host string, port uint, dir string) {
	// Acknowledge a commit only after the commit is on disk.
	unistore.DefaultConf.Engine.SyncWrite = true
	// Reduce the size of the value logs. With the default size, an empty database takes 256 MiB of disk space.
	unistore.DefaultConf.Engine.VlogFileSize = 16 << 20

	cfg := config.NewConfig()
	cfg.Host, cfg.AdvertiseAddress, cfg.Port = host, host, port
	cfg.Socket = ""
	cfg.Status.ReportStatus = false
	cfg.Store, cfg.Path = "unistore", filepath.Join(dir, "store")
	cfg.TempDir = filepath.Join(dir, "tmp")
	cfg.TempStoragePath = cfg.TempDir
	// Let a statement outside a transaction wait for a locked row, as in MySQL. By default, TiDB runs such a statement
	// optimistically and can retry it for minutes.
	cfg.PessimisticTxn.PessimisticAutoCommit.Store(true)
	cfg.Log.Level = "error"
	cfg.Log.EnableSlowLog.Store(false)
	cfg.Instance.EnableSlowLog.Store(false)
	cfg.Log.SlowQueryFile = filepath.Join(dir, "slow.log")
	config.StoreGlobalConfig(cfg)
}

// open opens the storage in the directory that configure has set. If the storage is new, open creates the system
// tables. dir is the directory's name in error messages.
func open(dir string) (*tidb, error) {
	cfg := config.GetGlobalConfig()
	if err := logutil.InitLogger(cfg.Log.ToLogConfig()); err != nil {
		return nil, err
	}
	if err := os.MkdirAll(cfg.TempDir, 0o700); err != nil {
		return nil, err
	}
	metrics.RegisterMetrics()
	if err := extension.Setup(); err != nil {
		return nil, err
	}
	if err := kvstore.Register("unistore", mockstore.EmbedUnistoreDriver{}); err != nil {
		return nil, err
	}
	executor.Start()
	resourcemanager.InstanceResourceManager.Start()
	storage, err := kvstore.New("unistore://" + cfg.Path)
	if err != nil {
		return nil, fmt.Errorf("open %s: %w", dir, err)
	}
	copr.GlobalMPPFailedStoreProber.Run()
	mppcoordmanager.InstanceMPPCoordinatorManager.Run()
	if err := ddl.StartOwnerManager(context.Background(), storage); err != nil {
		return nil, fmt.Errorf("start the DDL owner manager: %w", err)
	}
	dom, err := session.BootstrapSession(storage)
	if err != nil {
		return nil, fmt.Errorf("create the system tables: %w", err)
	}
	return &tidb{storage: storage, domain: dom}, nil
}

// prepare sets the root password, creates the database if it does not exist, and turns on settings that make TiDB
// behave like MySQL.
func (t *tidb) prepare(password, database string) error {
	if password == "" || strings.ContainsAny(password, `'\`) {
		return fmt.Errorf("the root password must not be empty and must not contain a single quote or a backslash")
	}
	statements := []string{
		"SET GLOBAL tidb_enable_check_constraint = ON",
		"SET GLOBAL tidb_enable_noop_functions = ON",
		"SET GLOBAL tidb_skip_isolation_level_check = ON",
		"ALTER USER 'root'@'%' IDENTIFIED BY '" + password + "'",
	}
	if database != "" {
		statements = append(statements, "CREATE DATABASE IF NOT EXISTS `"+strings.ReplaceAll(database, "`", "``")+"`"+
			" CHARACTER SET utf8mb4 COLLATE utf8mb4_bin")
	}
	s, err := session.CreateSession(t.storage)
	if err != nil {
		return err
	}
	defer s.Close()
	ctx := kv.WithInternalSourceType(context.Background(), kv.InternalTxnOthers)
	for _, statement := range statements {
		if _, err := s.ExecuteInternal(ctx, statement); err != nil {
			what, _, _ := strings.Cut(statement, " IDENTIFIED") // omits the password
			return fmt.Errorf("%s: %w", what, err)
		}
	}
	return nil
}

// serve serves clients until a signal arrives on stop.
func (t *tidb) serve(stop <-chan os.Signal) error {
	var err error
	if t.server, err = server.NewServer(config.GetGlobalConfig(), server.NewTiDBDriver(t.storage)); err != nil {
		return err
	}
	t.server.SetDomain(t.domain)
	go t.domain.ExpensiveQueryHandle().SetSessionManager(t.server).Run()
	go t.domain.MemoryUsageAlarmHandle().SetSessionManager(t.server).Run()
	go t.domain.ServerMemoryLimitHandle().SetSessionManager(t.server).Run()
	t.domain.InfoSyncer().SetSessionManager(t.server)
	ended := make(chan error, 1)
	go func() { ended <- t.server.Run(t.domain) }()
	select {
	case err := <-ended:
		return fmt.Errorf("serve clients: %w", err)
	case <-stop:
	}
	t.server.Close()
	return nil
}

// close stops the server and its storage, in the same order as TiDB's own main function.
func (t *tidb) close() {
	t.domain.StopAutoAnalyze()
	if t.server != nil {
		t.server.DrainClients(time.Second, time.Second)
		t.server.KillSysProcesses()
	}
	tikv.StoreShuttingDown(1)
	t.domain.Close()
	ddl.CloseOwnerManager()
	copr.GlobalMPPFailedStoreProber.Stop()
	mppcoordmanager.InstanceMPPCoordinatorManager.Stop()
	if err := t.storage.Close(); err != nil {
		fmt.Fprintln(os.Stderr, "tidb: close the storage:", err)
	}
	resourcemanager.InstanceResourceManager.Stop()
	executor.Stop()
}
