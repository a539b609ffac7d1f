package app

import (
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// TestKubernetesNamesNobodysRecipient: the example does not start before somebody
// has put in a recipient of their own, no example has one whose identity nobody has,
// and init sees the key store that the submitters share.
func TestKubernetesNamesNobodysRecipient(t *testing.T) {
	const folder = "../../deploy/kubernetes/"
	_, err := Load(folder + "certmill.yaml")
	wantWords(t, "as it is", err, "keys.recipients", "YOUR-RECIPIENT", "certmill identity FILE")
	read := func(path string) string {
		t.Helper()
		text, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		return string(text)
	}
	own := identityAt(t, filepath.Join(t.TempDir(), "identity.age"))
	c, err := Parse([]byte(strings.Replace(read(folder+"certmill.yaml"), "YOUR-RECIPIENT", own, 1)))
	if err != nil {
		t.Fatal(err)
	}
	admin, err := Load(folder + "admin.yaml")
	if err != nil || admin.Keys.Store != c.Keys.Store {
		t.Errorf("init has its key store at %s, the submitters at %s (%v)", admin.Keys.Store, c.Keys.Store, err)
	}
	if !strings.Contains(read(folder+"init.yaml"), "mountPath: "+admin.Keys.Store+"}") {
		t.Errorf("init does not see %s", admin.Keys.Store)
	}
	someone := regexp.MustCompile(`age1[a-z0-9]{30,}`)
	err = filepath.WalkDir("../../deploy", func(path string, d fs.DirEntry, err error) error {
		if err == nil && !d.IsDir() {
			if r := someone.FindString(read(path)); r != "" {
				t.Errorf("%s names the recipient %s", path, r)
			}
		}
		return err
	})
	if err != nil {
		t.Error(err)
	}
	for _, path := range []string{"example.yaml", "../../README.md"} {
		if r := someone.FindString(read(path)); r != "" {
			t.Errorf("%s names the recipient %s", path, r)
		}
	}
}
