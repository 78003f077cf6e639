package doctor

import (
	"context"
	"os"
	"path/filepath"
	"testing"
)

func grades(check func(*Results)) (all []Grade, mend string) {
	r := new(Results)
	check(r)
	for _, f := range r.findings {
		all, mend = append(all, f.Grade), f.Mend
	}
	return all, mend
}

func TestChecks(t *testing.T) {
	var c Checks
	ctx, cancel := context.WithCancel(t.Context())
	c.Register("first", func(_ context.Context, r *Results) { r.OK("%d", 1); r.Warn("mend it", "two") })
	c.Register("second", func(_ context.Context, r *Results) { r.Fault("", "three"); cancel() })
	c.Register("third", func(context.Context, *Results) { t.Error("runs after the end of the context") })
	report := c.Run(ctx)
	if len(report.Findings) != 3 || report.Warnings != 1 || report.Faults != 1 || !c.Has("third") || c.Has("fourth") {
		t.Errorf("report %+v", report)
	}
	const want = "ok       first   1\nwarning  first   two\n                   mend it\nfault    second  three\n\nwarnings: 1, faults: 1"
	if got := report.String(); got != want {
		t.Errorf("text\n%s\nwant\n%s", got, want)
	}
}

func TestKernel(t *testing.T) {
	for release, want := range map[string]Grade{"6.1.0-13-amd64": OK, "5.0": OK, "4.19.0-26-cloud": Warning, "": Warning} {
		if got, _ := grades(func(r *Results) { checkKernel(r, release) }); len(got) != 1 || got[0] != want {
			t.Errorf("%q: %v, want %s", release, got, want)
		}
	}
}

func TestConntrack(t *testing.T) {
	for _, row := range []struct {
		count, most string
		want        Grade
		mend        string
	}{
		{"", "", OK, ""},
		{"10\n", "1000000\n", OK, ""},
		{"750000\n", "1000000\n", Warning, "sysctl -w net.netfilter.nf_conntrack_max=4000000"},
		{"960\n", "1000\n", Fault, "sysctl -w net.netfilter.nf_conntrack_max=262144"},
	} {
		root := t.TempDir()
		dir := filepath.Join(root, "proc/sys/net/netfilter")
		if err := os.MkdirAll(dir, 0o700); err != nil {
			t.Fatal(err)
		}
		for name, text := range map[string]string{"count": row.count, "max": row.most} {
			if text == "" {
				continue
			}
			if err := os.WriteFile(filepath.Join(dir, "nf_conntrack_"+name), []byte(text), 0o600); err != nil {
				t.Fatal(err)
			}
		}
		if got, mend := grades(func(r *Results) { checkConntrack(r, root) }); len(got) != 1 || got[0] != row.want || mend != row.mend {
			t.Errorf("%q of %q: %v, %q", row.count, row.most, got, mend)
		}
	}
}
