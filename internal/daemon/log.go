package daemon

import (
	"fmt"
	"io"
	"log/slog"
	"net/url"
	"os"

	"golang.org/x/sys/unix"
)

// level is how much is logged. "fatal" is dockerd's word for less than errors.
func level(c *Config) (slog.Level, error) {
	if c.Debug {
		return slog.LevelDebug, nil
	}
	switch c.LogLevel {
	case "debug", "trace":
		return slog.LevelDebug, nil
	case "info":
		return slog.LevelInfo, nil
	case "warn", "warning":
		return slog.LevelWarn, nil
	case "error":
		return slog.LevelError, nil
	case "fatal", "panic":
		return slog.LevelError + 4, nil
	}
	return 0, fmt.Errorf("log-level %q is none of debug, info, warn, error and fatal", c.LogLevel)
}

// handler writes to w. What is logged are names, paths and sentences; bodies of requests and credentials never are.
func handler(c *Config, w io.Writer, l slog.Leveler) slog.Handler {
	o := &slog.HandlerOptions{Level: l}
	if c.LogFormat == "json" {
		return slog.NewJSONHandler(w, o)
	}
	return slog.NewTextHandler(w, o)
}

// setProxies puts the configured proxies where Go's HTTP client looks for them.
func setProxies(c *Config) {
	for name, value := range map[string]string{
		"HTTP_PROXY": c.HTTPProxy, "HTTPS_PROXY": c.HTTPSProxy, "NO_PROXY": c.NoProxy,
	} {
		if value != "" {
			_ = os.Setenv(name, value)
		}
	}
}

// withoutPassword shows a URL to people who need not know how to log in there.
func withoutPassword(text string) string {
	u, err := url.Parse(text)
	if err != nil || u.User == nil {
		return text
	}
	u.User = url.UserPassword("xxxxx", "xxxxx")
	return u.String()
}

// monotonic is the clock of systemd's reload protocol, in microseconds.
func monotonic() int64 {
	var t unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_MONOTONIC, &t); err != nil {
		return 0
	}
	return t.Nano() / 1000
}
