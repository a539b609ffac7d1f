package cloudsim

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
)

// journal is an append-only file of JSON lines in which the last line of an
// entity wins. Each line goes to the kernel with one write before the cloud
// answers, so that a killed process forgets nothing it has said. (A power cut is
// not what a simulator must survive, hence no fsync.)
type journal struct {
	file *os.File // nil: memory only
}

// entry is one line. A null value deletes the entity.
type entry struct {
	Type  string          `json:"t"`
	Key   string          `json:"k"`
	Value json.RawMessage `json:"v"`
}

const journalName = "books.jsonl"

// readJournal returns the last entry of each entity, in order of first sight.
func readJournal(dir string) ([]entry, error) {
	f, err := os.Open(filepath.Join(dir, journalName))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("open journal: %w", err)
	}
	defer f.Close()
	return lastEntries(f)
}

func lastEntries(r io.Reader) ([]entry, error) {
	at := map[[2]string]int{}
	var entries []entry
	lines := bufio.NewReaderSize(r, 1<<16)
	for {
		line, err := lines.ReadBytes('\n')
		if errors.Is(err, io.EOF) {
			return entries, nil // a last line without its newline is torn: the call was never answered
		}
		if err != nil {
			return nil, fmt.Errorf("read journal: %w", err)
		}
		var e entry
		if err := json.Unmarshal(line, &e); err != nil {
			return nil, fmt.Errorf("journal line %.80q: %w", line, err)
		}
		id := [2]string{e.Type, e.Key}
		if i, known := at[id]; known {
			entries[i] = e
			continue
		}
		at[id] = len(entries)
		entries = append(entries, e)
	}
}

// openJournal writes the live entries to a new file, puts it in place of the old
// one and appends from there.
func openJournal(dir string, live []entry) (*journal, error) {
	if dir == "" {
		return &journal{}, nil
	}
	name := filepath.Join(dir, journalName)
	f, err := os.OpenFile(name+".new", os.O_CREATE|os.O_TRUNC|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		return nil, fmt.Errorf("compact journal: %w", err)
	}
	if err := writeEntries(f, live); err != nil {
		f.Close()
		return nil, err
	}
	if err := os.Rename(name+".new", name); err != nil {
		f.Close()
		return nil, fmt.Errorf("compact journal: %w", err)
	}
	return &journal{file: f}, nil
}

func writeEntries(w io.Writer, live []entry) error {
	buf := bufio.NewWriterSize(w, 1<<16)
	enc := json.NewEncoder(buf)
	for _, e := range live {
		if string(e.Value) == "null" {
			continue
		}
		if err := enc.Encode(e); err != nil {
			return fmt.Errorf("compact journal: %w", err)
		}
	}
	if err := buf.Flush(); err != nil {
		return fmt.Errorf("compact journal: %w", err)
	}
	return nil
}

// put appends one entity; nil deletes it.
func (j *journal) put(typ, key string, value any) error {
	if j.file == nil {
		return nil
	}
	raw, err := json.Marshal(value)
	if err != nil {
		return fmt.Errorf("journal %s %s: %w", typ, key, err)
	}
	line, err := json.Marshal(entry{Type: typ, Key: key, Value: raw})
	if err != nil {
		return fmt.Errorf("journal %s %s: %w", typ, key, err)
	}
	if _, err := j.file.Write(append(line, '\n')); err != nil {
		return fmt.Errorf("journal %s %s: %w", typ, key, err)
	}
	return nil
}

// wipe empties the file.
func (j *journal) wipe() error {
	if j.file == nil {
		return nil
	}
	if err := j.file.Truncate(0); err != nil {
		return fmt.Errorf("wipe journal: %w", err)
	}
	return nil
}

func (j *journal) close() error {
	if j.file == nil {
		return nil
	}
	return j.file.Close()
}
