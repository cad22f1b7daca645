// Package commands finds the commands and the code blocks in the Markdown pages of the repository. It also reads the
// file that names the test of each command.
package commands

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
)

// Command is a command that a reader of a page types.
type Command struct {
	Page string // the path of the page in the repository
	Text string // can have several lines
}

// Line returns the command as one line without its comments. The data file contains commands in this form.
func (c Command) Line() string {
	return strings.Join(strings.Fields(strings.ReplaceAll(comments.ReplaceAllString(c.Text, ""), "\\\n", " ")), " ")
}

var (
	comments = regexp.MustCompile(`(?m)\s+# .*$`)
	// blocks matches a code block whose language is a shell. The first group is the indentation of the block.
	blocks = regexp.MustCompile("(?ms)^( *)```(?:sh|bash|shell|console)\n(.*?)^ *```$")
	fences = regexp.MustCompile("(?ms)^ *```.*?^ *```$")
	// inline matches a command in the text of a page. Two words of kubectl or another program, or three words of kn, can
	// be the name of a command, such as kubectl apply or kn domain create. Therefore the command must have further words.
	inline = regexp.MustCompile("`((?:[A-Z_]+=\\S+\\s+)*(?:make\\s+[a-z]|deploy/[a-z-]+\\s|test/real/run|" +
		"kn(?:\\s+[^\\s`]+){3}|" +
		"(?:curl|docker|git|go|kind|ko|kubectl|minikube|npm|npx)(?:\\s+[^\\s`]+){2})[^`]*)`")
)

// On returns the commands on a page. The root is the top directory of the repository.
func On(root, page string) ([]Command, error) {
	content, err := os.ReadFile(filepath.Join(root, page))
	if err != nil {
		return nil, err
	}
	var found []Command
	for _, block := range blocks.FindAllStringSubmatch(string(content), -1) {
		text := regexp.MustCompile("(?m)^"+block[1]).ReplaceAllString(block[2], "")
		if strings.HasPrefix(text, "$ ") { // the other lines of such a block are output
			text = strings.Join(prompts.FindAllString(text, -1), "\n")
			text = prompt.ReplaceAllString(text, "")
		}
		texts, err := split(text)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", page, err)
		}
		for _, text := range texts {
			found = append(found, Command{page, text})
		}
	}
	for _, match := range inline.FindAllStringSubmatch(fences.ReplaceAllString(string(content), ""), -1) {
		found = append(found, Command{page, match[1]})
	}
	return found, nil
}

var (
	prompts = regexp.MustCompile(`(?m)^\$ .*$`)
	prompt  = regexp.MustCompile(`(?m)^\$ `)
)

// split splits a script into its top-level commands.
func split(script string) (texts []string, err error) {
	text := ""
	for line := range strings.Lines(script) {
		text += line
		complete, err := parses(text)
		if err != nil {
			return nil, err
		}
		if complete {
			if strings.TrimSpace(comments.ReplaceAllString("\n"+text, "")) != "" {
				texts = append(texts, strings.TrimSpace(text))
			}
			text = ""
		}
	}
	if text != "" {
		return nil, fmt.Errorf("incomplete command: %s", text)
	}
	return texts, nil
}

// parses reports whether text is a sequence of complete commands.
func parses(text string) (bool, error) {
	if strings.HasSuffix(strings.TrimRight(text, "\n"), `\`) {
		return false, nil
	}
	command := exec.Command("bash", "-n")
	command.Stdin = strings.NewReader(text)
	var stderr bytes.Buffer
	command.Stderr = &stderr
	var exit *exec.ExitError
	if err := command.Run(); err != nil && !errors.As(err, &exit) {
		return false, err
	}
	return stderr.Len() == 0, nil // bash only prints a warning if the end of a here-document is missing
}

// Block returns the content of a code block without its indentation. The page has one block with this language that
// starts with this text.
func Block(root, page, language, start string) (string, error) {
	content, err := os.ReadFile(filepath.Join(root, page))
	if err != nil {
		return "", err
	}
	inLanguage := regexp.MustCompile("(?ms)^( *)```" + language + "\n(.*?)^ *```$")
	for _, block := range inLanguage.FindAllStringSubmatch(string(content), -1) {
		if text := regexp.MustCompile("(?m)^"+block[1]).ReplaceAllString(block[2], ""); strings.HasPrefix(text, start) {
			return text, nil
		}
	}
	return "", fmt.Errorf("%s has no %s block that starts with %q", page, language, start)
}

var (
	ids   = regexp.MustCompile(`[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}`)
	times = regexp.MustCompile(`\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?Z`)
)

// Mask replaces the IDs and times in text, which are different in each run.
func Mask(text string) string {
	return times.ReplaceAllString(ids.ReplaceAllString(text, "ID"), "TIME")
}

// Session returns the commands and the output in a console block. The IDs in the commands are examples, so Session
// replaces them with $ID. A reader replaces them with the ID in the response to the upload.
func Session(block string) (commands []string, output string) {
	for line := range strings.Lines(block) {
		if command, typed := strings.CutPrefix(line, "$ "); typed {
			commands = append(commands, ids.ReplaceAllString(command, "$$ID"))
		} else {
			output += line
		}
	}
	return commands, output
}

// Entry is a line of the data file.
type Entry struct {
	Line  string // the command, as Line returns it
	Proof string // the heading of the section
}

// Entries reads the data file.
func Entries(path string) ([]Entry, error) {
	content, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	var entries []Entry
	heading := ""
	for line := range strings.Lines(string(content)) {
		line = strings.TrimSpace(line)
		switch {
		case line == "" || strings.HasPrefix(line, "#"):
		case strings.HasPrefix(line, "[") && strings.HasSuffix(line, "]"):
			heading = line[1 : len(line)-1]
		default:
			entries = append(entries, Entry{line, heading})
		}
	}
	return entries, nil
}
