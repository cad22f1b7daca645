package store

import (
	"context"
	"errors"
	"io"
	"path/filepath"
)

// StartTiDB starts TiDB with its data in dir, after building TiDB if necessary.
func StartTiDB(ctx context.Context, dir string, w io.Writer) (*MySQL, error) {
	binary, err := Build(ctx, "tidb", w)
	if err != nil {
		return nil, err
	}
	dir, lock, err := open(dir)
	if err != nil {
		return nil, err
	}
	passwordFile := filepath.Join(dir, "root-password")
	password, err := secret(passwordFile)
	if err != nil {
		return nil, errors.Join(err, lock.Close())
	}
	port, err := freePort(ctx)
	if err != nil {
		return nil, errors.Join(err, lock.Close())
	}
	dsn := rootDSN(port, password)
	say(w, "starting TiDB in %s", dir)
	server, err := start(ctx, "tidb", dir, lock, program{
		path: binary,
		args: []string{
			"-addr", address(port), "-dir", filepath.Join(dir, "data"), "-password-file", passwordFile, "-database", database,
		},
		env: environment(), dir: dir, log: filepath.Join(dir, "server.log"),
		ready: func(ctx context.Context) error { return pingMySQL(ctx, dsn) },
	})
	if err != nil {
		return nil, err
	}
	return &MySQL{Server: server, AdminDSN: dsn, Kind: "tidb"}, nil
}
