package cli

import (
	"fmt"
	"testing"
)

func TestNetworkOption(t *testing.T) {
	for value, want := range map[string]string{
		"rx=10mbit":           " map[rx:10mbit]",
		"RX=1mbit, tx=2mbit":  " map[rx:1mbit tx:2mbit]",
		"front:tx=0":          "front map[tx:0]",
		"rx=a:b":              " map[rx:a:b]",
		"my.net-1:rx=1,tx=2k": "my.net-1 map[rx:1 tx:2k]",
	} {
		name, options, err := parseNetworkOpt(value)
		if got := fmt.Sprint(name, " ", options); err != nil || got != want {
			t.Errorf("%q: %q, %v", value, got, err)
		}
	}
	for _, value := range []string{"", "rx", "rx=", "=1", "net:", "net:rx", "rx=1,,tx=2", "net:rx=1,tx"} {
		if name, options, err := parseNetworkOpt(value); err == nil {
			t.Errorf("%q is taken as %q %v", value, name, options)
		}
	}
	r, err := rewire([]string{"8080:80", "127.0.0.1:53:53/udp"}, []string{"81"}, []string{"rx=1mbit", "b:tx=2mbit", "tx=0"}, []string{"allow=a", "deny=b"})
	if err != nil {
		t.Fatal(err)
	}
	if len(r.Publish) != 2 || len(r.Unpublish) != 1 || r.Unpublish[0].HostPort != "" || fmt.Sprint(r.Options) != "map[:map[rx:1mbit tx:0] b:map[tx:2mbit]]" || *r.Egress != "allow=a,deny=b" {
		t.Errorf("%+v", r)
	}
	if r, err := rewire(nil, nil, nil, nil); r != nil || err != nil {
		t.Errorf("nothing is %+v, %v", r, err)
	}
	if _, err := rewire([]string{"x:y"}, nil, nil, nil); err == nil {
		t.Error("a bad port is taken")
	}
}

func FuzzNetworkOption(f *testing.F) {
	f.Add("net:rx=10mbit,tx=5mbit")
	f.Add(":=,")
	f.Fuzz(func(t *testing.T, value string) {
		_, options, err := parseNetworkOpt(value)
		for k, v := range options {
			if err == nil && (k == "" || v == "") {
				t.Errorf("%q gives %q=%q", value, k, v)
			}
		}
	})
}
