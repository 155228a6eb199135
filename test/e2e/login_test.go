package e2e

import (
	"encoding/base64"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"strings"
	"testing"

	"github.com/berth-engine/berth/test/harness"
)

// TestLogin: a registry that wants a password, from login through push and pull to logout, by every client, with the
// credentials in the file and in a helper.
func TestLogin(t *testing.T) {
	harness.Need(t)
	harness.Tool(t, "docker-registry")
	d := harness.Start(t)
	behind, err := url.Parse("http://" + registry(t, d.Dir))
	if err != nil {
		t.Fatal(err)
	}
	proxy := &httputil.ReverseProxy{Rewrite: func(r *httputil.ProxyRequest) {
		r.SetURL(behind)
		r.Out.Host = r.In.Host // the registry names itself as it was asked
	}}
	want := "Basic " + base64.StdEncoding.EncodeToString([]byte("ann:secret"))
	door := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Authorization") != want {
			w.Header().Set("WWW-Authenticate", `Basic realm="berth"`)
			w.WriteHeader(http.StatusUnauthorized)
			return
		}
		proxy.ServeHTTP(w, r)
	}))
	t.Cleanup(door.Close)
	host := strings.TrimPrefix(door.URL, "http://")

	helper := `mkdir -p $DIR/bin && cat >$DIR/bin/docker-credential-box <<'END'
#!/bin/sh
case $1 in
store) cat >$CREDENTIALS ;;
get) cat >/dev/null; if [ -s $CREDENTIALS ]; then cat $CREDENTIALS; else echo "credentials not found in native keychain"; exit 1; fi ;;
erase) cat >/dev/null; rm -f $CREDENTIALS ;;
esac
END
chmod 755 $DIR/bin/docker-credential-box`
	d.Shell(d.Berth(), strings.ReplaceAll(helper, "$DIR", d.Dir)).Exits(0)
	for i, c := range d.Clients() {
		repo := host + "/app" + string(rune('a'+i)) + ":1"
		for _, kept := range []string{`{}`, `{"credsStore":"box"}`, `{"credHelpers":{"` + host + `":"box"}}`} {
			dir := t.TempDir()
			set := "export DOCKER_CONFIG=" + dir + " CREDENTIALS=" + dir + "/kept PATH=" + d.Dir + "/bin:$PATH; "
			d.Shell(c, set+"echo '"+kept+"' >$DOCKER_CONFIG/config.json; $D tag berth/box "+repo).Exits(0)
			d.Shell(c, set+"$D push "+repo).Exits(1)
			d.Shell(c, set+"echo wrong | $D login -u ann --password-stdin "+host).Exits(1).Complains("unauthorized")
			d.Shell(c, set+"! grep -rq secret $DOCKER_CONFIG; echo secret | $D login -u ann --password-stdin "+host).Exits(0).Shows("Login Succeeded")
			d.Shell(c, set+"$D push "+repo+" && $D rmi "+repo+" && $D pull "+repo).Exits(0)
			d.Shell(c, set+"$D logout "+host).Exits(0).Shows("Removing login credentials for " + host)
			d.Shell(c, set+"$D rmi "+repo+" && $D pull "+repo).Exits(1).Complains("pull access denied for " + host)
			if strings.Contains(kept, "box") {
				d.Shell(c, set+"grep -q secret $DOCKER_CONFIG/config.json").Exits(1)
			}
		}
	}
}
