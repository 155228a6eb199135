package engine

import (
	"context"
	"fmt"
	"path/filepath"
	"slices"
	"strconv"

	"github.com/berth-engine/berth/internal/container"
	"github.com/berth-engine/berth/internal/logfile"
	"github.com/berth-engine/berth/internal/monitor"
	"github.com/containerd/errdefs"
	"github.com/docker/go-units"
)

// Logs reads what a container has written, and with Follow what it writes until it ends.
func (e *Engine) Logs(ctx context.Context, ref string, o logfile.ReadOptions, fn func(logfile.Entry) error) error {
	rec, err := e.Containers.Get(ref)
	if err != nil {
		return err
	}
	return e.readLogs(ctx, rec, o, fn)
}

func (e *Engine) readLogs(ctx context.Context, rec container.Record, o logfile.ReadOptions, fn func(logfile.Entry) error) error {
	if e.logDriver(rec) != "json-file" {
		return fmt.Errorf("configured logging driver does not support reading%w", kind{errdefs.ErrNotImplemented})
	}
	if o.Follow {
		ctx, cancel := context.WithCancel(ctx)
		defer cancel()
		done := make(chan struct{})
		o.Done = done
		ended, err := e.Containers.Wait(ctx, rec.ID, container.NotRunning)
		if err != nil {
			return err
		}
		go func() {
			select {
			case <-ended:
			case <-ctx.Done():
			}
			close(done)
		}()
	}
	return logfile.Read(ctx, e.LogPath(rec), o, fn)
}

// LogPath is where a container's log is, "" when it has none.
func (e *Engine) LogPath(rec container.Record) string {
	if e.logDriver(rec) != "json-file" {
		return ""
	}
	return filepath.Join(e.Containers.Dir(rec.ID), rec.ID+"-json.log")
}

func (e *Engine) logDriver(rec container.Record) string {
	if rec.Config.Log.Driver != "" {
		return rec.Config.Log.Driver
	}
	return e.opts.LogDriver
}

// logConfig is what the monitor must know. Its defaults bound a log to three files of 20 MB each.
func (e *Engine) logConfig(rec container.Record) (monitor.LogConfig, error) {
	options := rec.Config.Log.Options
	if rec.Config.Log.Driver == "" && len(options) == 0 {
		options = e.opts.LogOptions
	}
	c, err := parseLog(e.logDriver(rec), options, e.LogPath(rec))
	if err == nil && c.Driver != "none" {
		c.Attrs, err = attributes(rec, options)
	}
	return c, err
}

func parseLog(driver string, options map[string]string, path string) (monitor.LogConfig, error) {
	c := monitor.LogConfig{Driver: driver, Path: path, MaxSize: 20 << 20, MaxFile: 3}
	bad := func(format string, args ...any) (monitor.LogConfig, error) {
		return c, fmt.Errorf(format+"%w", append(args, kind{errdefs.ErrInvalidArgument})...)
	}
	switch driver {
	case "none":
		return c, nil
	case "json-file":
	default:
		return bad("logger: no log driver named '%s' is registered", driver)
	}
	for k, v := range options {
		var err error
		switch k {
		case "max-size":
			if v == "-1" {
				c.MaxSize = 0
				continue
			}
			if c.MaxSize, err = units.FromHumanSize(v); err != nil || c.MaxSize <= 0 {
				return bad("invalid value for max-size: %q", v)
			}
		case "max-file":
			if c.MaxFile, err = strconv.Atoi(v); err != nil || c.MaxFile < 1 {
				return bad("max-file cannot be less than 1: %q", v)
			}
		case "compress":
			if c.Compress, err = strconv.ParseBool(v); err != nil {
				return bad("invalid value for compress: %q", v)
			}
		case "mode":
			if v != "blocking" {
				return bad("log mode %q is not supported: output waits until it is written (mode=blocking)", v)
			}
		default:
			if slices.Contains(logAttrs, k) {
				continue
			}
			return bad("unknown log opt '%s' for json-file log driver", k)
		}
	}
	return c, nil
}
