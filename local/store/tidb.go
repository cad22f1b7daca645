package store

import (
	"context"
	"io"
	"path/filepath"

	"github.com/strongroom-dev/strongroom/local/process"
)

// StartTiDB starts TiDB with its data in dir, after building TiDB if necessary.
func StartTiDB(ctx context.Context, dir string, w io.Writer) (*MySQL, error) {
	binary, err := Build(ctx, "tidb", w)
	if err != nil {
		return nil, err
	}
	var dsn string
	server, err := start(ctx, "tidb", dir, func(dir string) ([]program, error) {
		passwordFile := filepath.Join(dir, "root-password")
		password, err := secret(passwordFile)
		if err != nil {
			return nil, err
		}
		port, err := process.FreePort()
		if err != nil {
			return nil, err
		}
		dsn = rootDSN(port, password)
		say(w, "starting TiDB in %s", dir)
		return []program{{
			path: binary,
			args: []string{
				"-addr", process.Address(port), "-dir", filepath.Join(dir, "data"), "-password-file", passwordFile, "-database", database,
			},
			env:   environment(),
			ready: func(ctx context.Context) error { return pingMySQL(ctx, dsn) },
		}}, nil
	})
	if err != nil {
		return nil, err
	}
	return &MySQL{Server: server, AdminDSN: dsn}, nil
}
