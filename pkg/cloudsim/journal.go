package cloudsim

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"
	"time"
)

// journal is an append-only file of JSON lines in which the last line of an
// entity wins. Each line goes to the kernel with one write before the cloud
// answers, so that a killed process forgets nothing it has said. (A power cut is
// not what a simulator must survive, hence no fsync.)
//
// A line that could not be written to its end is taken back, and nothing is
// written behind a torn one: its call is answered with an error, and is not done.
type journal struct {
	disk disk
	file *os.File  // nil: memory only
	end  int64     // of the last whole line
	torn bool      // something lies beyond it, which must go first
	full time.Time // since when the disk has no room; zero: it has
}

// fullWait is how long the cloud stalls while its disk is full, before it answers
// with an error: less than a client waits for a call that spends, whose outcome
// would be unknown to it.
const fullWait = 10 * time.Second

// entry is one line. A null value deletes the entity.
type entry struct {
	Type  string          `json:"t"`
	Key   string          `json:"k"`
	Value json.RawMessage `json:"v"`
}

const journalName = "books.jsonl"

// readJournal returns the last entry of each entity, in order of first sight, and
// how many lines were torn: their calls were never answered.
func readJournal(dir string) (entries []entry, torn int, err error) {
	f, err := os.Open(filepath.Join(dir, journalName))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, 0, nil
	}
	if err != nil {
		return nil, 0, fmt.Errorf("open journal: %w", err)
	}
	defer f.Close()
	return lastEntries(f)
}

func lastEntries(r io.Reader) (entries []entry, torn int, err error) {
	at := map[[2]string]int{}
	lines := bufio.NewReaderSize(r, 1<<16)
	for {
		line, err := lines.ReadBytes('\n')
		if errors.Is(err, io.EOF) { // a last line without its newline is torn
			return entries, torn + min(len(line), 1), nil
		}
		if err != nil {
			return nil, 0, fmt.Errorf("read journal: %w", err)
		}
		e, whole, err := parseEntry(line)
		if err != nil {
			return nil, 0, err
		}
		if !whole {
			torn++
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

// entryStart begins every line.
const entryStart = `{"t":`

// parseEntry reads a line. An earlier simulator went on writing behind a torn
// line, so that the next one stands on its end.
func parseEntry(line []byte) (e entry, whole bool, err error) {
	if err = json.Unmarshal(line, &e); err == nil {
		return e, true, nil
	}
	for rest := line; ; {
		i := bytes.Index(rest[min(1, len(rest)):], []byte(entryStart))
		if i < 0 {
			return entry{}, false, fmt.Errorf("journal line %.80q: %w; the simulator's books are damaged: "+
				"remove the folder, or name another one with --state, and hand the order files in again", line, err)
		}
		rest = rest[i+1:]
		if e = (entry{}); json.Unmarshal(rest, &e) == nil {
			return e, false, nil
		}
	}
}

// openJournal writes the live entries to a new file, puts it in place of the old
// one and appends from there.
func openJournal(d disk, dir string, live []entry) (*journal, error) {
	if dir == "" {
		return &journal{}, nil
	}
	name := filepath.Join(dir, journalName)
	err := d.replace(name, 0o600, func(f *os.File) error {
		return errors.Join(d.fails("write"), writeEntries(f, live))
	})
	if err != nil {
		return nil, fmt.Errorf("compact journal: %w", err)
	}
	j := &journal{disk: d}
	if j.file, err = os.OpenFile(name, os.O_WRONLY|os.O_APPEND, 0o600); err == nil {
		j.end, err = j.file.Seek(0, io.SeekEnd)
	}
	if err != nil {
		return nil, fmt.Errorf("open journal: %w", err)
	}
	return j, nil
}

func writeEntries(w io.Writer, live []entry) error {
	buf := bufio.NewWriterSize(w, 1<<16)
	enc := json.NewEncoder(buf)
	for _, e := range live {
		if string(e.Value) == "null" {
			continue
		}
		if err := enc.Encode(e); err != nil {
			return err
		}
	}
	return buf.Flush()
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
	if err := j.append(append(line, '\n')); err != nil {
		return fmt.Errorf("journal %s %s: %w", typ, key, err)
	}
	return nil
}

// append writes a line as a whole, or leaves the file as it was. While the disk
// is full it waits a while for room, and the whole cloud with it.
func (j *journal) append(line []byte) error {
	for {
		err := j.tryAppend(line)
		switch {
		case err == nil:
			j.full = time.Time{}
			return nil
		case !errors.Is(err, syscall.ENOSPC):
			return err
		case j.full.IsZero():
			j.full = time.Now()
		case time.Since(j.full) > fullWait:
			return err
		}
		time.Sleep(50 * time.Millisecond)
	}
}

// tryAppend tries once. Where even taking back fails, nothing is written before it
// has succeeded; a process that ends in between leaves a torn last line, which is
// cut when the books are opened.
func (j *journal) tryAppend(line []byte) error {
	if err := j.trim(); err != nil {
		return err
	}
	if err := j.disk.write(j.file, line); err != nil {
		j.torn = true
		return errors.Join(err, j.trim())
	}
	j.end += int64(len(line))
	return nil
}

// trim takes back what is no whole line.
func (j *journal) trim() error {
	if !j.torn {
		return nil
	}
	if err := errors.Join(j.disk.fails("truncate"), j.file.Truncate(j.end)); err != nil {
		return err
	}
	j.torn = false
	return nil
}

// wipe empties the file.
func (j *journal) wipe() error {
	if j.file == nil {
		return nil
	}
	j.end, j.torn = 0, true
	if err := j.trim(); err != nil {
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
