package main

import (
	"bytes"
	"encoding/json"
	"log/slog"
	"strings"
	"testing"
	"testing/slogtest"
)

// noisy is a log value that counts how often it is formatted.
type noisy struct{ formatted *int }

func (n noisy) LogValue() slog.Value {
	*n.formatted++
	return slog.StringValue("formatted")
}

// chains are functions that write one record. They attach the value to the record in different ways.
var chains = map[string]func(l *slog.Logger, value any){
	"attribute of the logger": func(l *slog.Logger, value any) { l.With("args", value).Debug("m") },
	"attribute of the record": func(l *slog.Logger, value any) { l.Debug("m", "args", value) },
	"attribute in a list":     func(l *slog.Logger, value any) { l.With("args", []any{value, 1}).Debug("m") },
	"attribute in a group":    func(l *slog.Logger, value any) { l.WithGroup("g").With("args", value).Debug("m", "b", 1) },
	"attributes before and after a group": func(l *slog.Logger, value any) {
		l.With("a", value).WithGroup("g").With("b", value).WithGroup("h").Debug("m", "c", value)
	},
	"attribute that is a group": func(l *slog.Logger, value any) { l.With(slog.Group("g", "a", value)).Debug("m") },
	"several attributes":        func(l *slog.Logger, value any) { l.With("a", value).With("b", value).With("a", value).Debug("m") },
}

func TestLazyHandlerFormatsNothingThatIsNotWritten(t *testing.T) {
	for name, log := range chains {
		t.Run(name, func(t *testing.T) {
			var text bytes.Buffer
			formatted := 0
			log(slog.New(lazyHandler{next: slog.NewTextHandler(&text, &slog.HandlerOptions{Level: slog.LevelError})}), noisy{&formatted})
			if formatted != 0 || text.Len() != 0 {
				t.Errorf("the value was formatted %d times and the log is %q, want 0 times and an empty log", formatted, &text)
			}
		})
	}
}

func TestLazyHandlerWritesWhatTextHandlerDoes(t *testing.T) {
	options := &slog.HandlerOptions{Level: slog.LevelDebug, ReplaceAttr: func(groups []string, a slog.Attr) slog.Attr {
		if a.Key == slog.TimeKey && len(groups) == 0 {
			return slog.Attr{}
		}
		return a
	}}
	for name, log := range chains {
		t.Run(name, func(t *testing.T) {
			var got, want bytes.Buffer
			formatted := 0
			log(slog.New(lazyHandler{next: slog.NewTextHandler(&got, options)}), noisy{&formatted})
			log(slog.New(slog.NewTextHandler(&want, options)), noisy{&formatted})
			if got.String() != want.String() || !strings.Contains(got.String(), "msg=m") {
				t.Errorf("got %q, want %q", &got, &want)
			}
		})
	}
}

// TestLazyHandlerKeepsLoggersApart checks that two loggers derived from the same logger do not share attributes.
func TestLazyHandlerKeepsLoggersApart(t *testing.T) {
	var text bytes.Buffer
	parent := slog.New(lazyHandler{next: slog.NewTextHandler(&text, nil)})
	for range 3 { // so that the underlying array of steps has spare capacity
		parent = parent.With("p", 1)
	}
	one, two := parent.With("own", "one"), parent.With("own", "two")
	one.Info("m")
	if got := text.String(); !strings.Contains(got, "own=one") || strings.Contains(got, "two") {
		t.Errorf("got %q, want only the attribute of the first logger", got)
	}
	text.Reset()
	two.Info("m")
	if got := text.String(); !strings.Contains(got, "own=two") || strings.Contains(got, "one") {
		t.Errorf("got %q, want only the attribute of the second logger", got)
	}
}

func TestLazyHandlerIsAHandler(t *testing.T) {
	var text bytes.Buffer
	err := slogtest.TestHandler(lazyHandler{next: slog.NewJSONHandler(&text, nil)}, func() []map[string]any {
		var records []map[string]any
		for line := range strings.Lines(text.String()) {
			var record map[string]any
			if err := json.Unmarshal([]byte(line), &record); err != nil {
				t.Fatal(err)
			}
			records = append(records, record)
		}
		return records
	})
	if err != nil {
		t.Error(err)
	}
}
