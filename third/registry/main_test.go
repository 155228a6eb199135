package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestOptionsThatAreRefused(t *testing.T) {
	dir := t.TempDir()
	plain := filepath.Join(dir, "plain")
	if err := os.WriteFile(plain, []byte("ann:{SHA}x\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	for args, says := range map[string]string{
		"serve --listen :5000":                                "open to other machines",
		"serve --listen 0.0.0.0:5000":                         "open to other machines",
		"serve --listen here":                                 "is no address",
		"serve --tls-cert x":                                  "belong together",
		"serve --tls-cert /no --tls-key /no":                  "no such file",
		"serve --mirror ftp://x":                              "no http or https URL",
		"serve --mirror http://x --read-only":                 "neither",
		"serve --mirror http://x --allow-delete":              "neither",
		"serve --htpasswd /no":                                "no such file",
		"serve --htpasswd " + plain:                           "not hashed with bcrypt",
		"serve --htpasswd " + os.DevNull:                      "no account",
		"serve more":                                          "unexpected argument",
		"gc --root " + dir + "/no":                            "no registry in",
		"":                                                    "usage",
		"serve --mirror http://u:secret@x?q --root /no/where": "no http or https URL",
	} {
		var out, errOut strings.Builder
		if code := run(strings.Fields(args), &out, &errOut); code != 1 || !strings.Contains(errOut.String(), says) ||
			strings.Contains(errOut.String(), "secret") {
			t.Errorf("%s: %d %q", args, code, errOut.String())
		}
	}
}

func TestOneProcessHasTheDirectory(t *testing.T) {
	dir := t.TempDir()
	unlock, err := lock(dir)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := lock(dir); err == nil || !strings.Contains(err.Error(), "in use") {
		t.Error(err)
	}
	unlock()
	if unlock, err = lock(dir); err != nil {
		t.Fatal(err)
	}
	unlock()
}

func FuzzAccounts(f *testing.F) {
	const hash = "$2y$05$abcdefghijklmnopqrstuuAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA"
	for _, s := range []string{"", "a:b", "ann:" + hash, "# x\n\nann:" + hash + "\n:x", "ann:$2y$", "\x00:\x00"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, text string) {
		if checkAccounts(text) == nil && !strings.Contains(text, ":$2") {
			t.Errorf("%q has no account with a bcrypt hash and is let through", text)
		}
	})
}
