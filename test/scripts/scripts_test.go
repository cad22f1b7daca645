// Package scripts_test checks the shell scripts of the repository with shellcheck, and checks that they run on macOS,
// which has bash 3.2 and the BSD versions of sed, grep and other programs.
package scripts_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/strongroom-dev/strongroom/local/store"
	"github.com/strongroom-dev/strongroom/test/servertest"
)

const root = "../.."

func TestMain(m *testing.M) { servertest.Main(m) }

// shell matches the first line of a shell script, and of a file that shell scripts source.
var shell = regexp.MustCompile(`^(#!.*\b(ba|da|k|z)?sh\b|# shellcheck shell=)`)

// scripts returns the contents of all shell scripts that Git does not ignore, by their paths relative to root.
func scripts(t *testing.T) map[string]string {
	t.Helper()
	command := exec.Command("git", "ls-files", "-z", "--cached", "--others", "--exclude-standard")
	command.Dir = root
	output, err := command.Output()
	if err != nil {
		t.Fatalf("list the files: %v", err)
	}
	found := map[string]string{}
	for path := range strings.SplitSeq(string(output), "\x00") {
		info, err := os.Stat(filepath.Join(root, path))
		if err != nil || !info.Mode().IsRegular() || info.Size() > 1<<20 {
			continue // a deleted file can still be in Git's index
		}
		content, err := os.ReadFile(filepath.Join(root, path))
		if err != nil {
			t.Fatal(err)
		}
		if shell.Match(content) {
			found[path] = string(content)
		}
	}
	for _, path := range []string{".ci/run", "deploy/cluster", "deploy/versions"} {
		if found[path] == "" {
			t.Fatalf("did not find the script %s", path)
		}
	}
	return found
}

func TestShellcheck(t *testing.T) {
	program, err := exec.LookPath("shellcheck")
	if errors.Is(err, exec.ErrNotFound) {
		ctx, cancel := context.WithTimeout(t.Context(), servertest.StartTimeout)
		defer cancel()
		switch err = store.Install(ctx, t.Output(), "shellcheck"); {
		case errors.Is(err, errors.ErrUnsupported):
			err = fmt.Errorf("shellcheck: %w: %w", store.ErrNotInstalled, err)
		case err == nil:
			program, err = exec.LookPath("shellcheck")
		}
	}
	servertest.Need(t, "shellcheck", err)
	args := []string{"--external-sources"}
	for path := range scripts(t) {
		args = append(args, path)
	}
	command := exec.CommandContext(t.Context(), program, args...)
	command.Dir = root
	if output, err := command.CombinedOutput(); err != nil {
		t.Errorf("shellcheck: %v\n%s", err, output)
	}
}

// construct is a part of a line that macOS does not support. Each of the lines contains the construct.
type construct struct {
	pattern string
	lines   []string
}

// constructs lists what a script must not use. Some of these constructs work on the newest versions of macOS only.
var constructs = []construct{
	// bash 4 and newer
	{`\b(mapfile|readarray|coproc)\b`, []string{"mapfile -t names <file", "readarray -t names", "coproc cat"}},
	{`\b(declare|typeset|local|readonly|export)\s+(-\w+\s+)*-\w*[AgIlnu]`, []string{
		"declare -A seen", "local -A seen", "declare -g -A seen", "declare -n name=other", "local -u name", "typeset -rl name", "local -I name",
	}},
	{`\$\{[^}]*[\w\]@*](,|\^)`, []string{
		`echo "${name,,}"`, `echo "${name^^}"`, `echo "${name^}"`, `echo "${names[@]^^}"`, `echo "${@,,}"`,
	}},
	{`\$\{[^}]*@[A-Za-z]\}`, []string{`echo "${name@Q}"`, `echo "${names[@]@A}"`}},
	{`\$\{[^}]*\[-\d|\bunset\b.*\[-\d|(^|\s)\w+\[-\d+\]\+?=`, []string{`echo "${names[-1]}"`, `unset 'names[-1]'`, "names[-1]=last"}},
	{`\$\{[\w@*]+:[^}]*:\s*-\d`, []string{`echo "${name:0:-1}"`, `echo "${name:1: -2}"`, `echo "${@:1:-1}"`}},
	{`\bwait\s+(-\w+\s+)*-\w*[fnp]\b`, []string{"wait -n", "wait -f 7", "wait -n -p id"}},
	{`\bread\s+(-\w+\s+)*-\w*[iN]\b`, []string{"read -N 1 key", "read -e -i default name"}},
	{`\bread\s+(-\w+\s+)*-t\s*(\d*\.\d|0\b)`, []string{"read -r -t 0.5 line", "read -t 0"}},
	{`\bprintf\b.*%\([^)]*\)T`, []string{`printf '%(%s)T' -1`}},
	{`\bprintf\s+-v\s*["']?\w+\[`, []string{"printf -v 'names[1]' %s value"}},
	{`(\[\[|\btest|\s\[)\s+(!\s+)?-[vR]\s`, []string{"[[ -v name ]]", "test -v name", "if [ ! -v name ]; then"}},
	{`\bshopt\s+-s\s.*\b(globstar|lastpipe|inherit_errexit|dirspell|autocd|localvar_inherit)\b`, []string{
		"shopt -s globstar", "shopt -s nullglob lastpipe", "shopt -s inherit_errexit",
	}},
	{`\$\{?(BASHPID|BASH_ARGV0|EPOCHSECONDS|EPOCHREALTIME|SRANDOM)\b|\bBASH_XTRACEFD=`, []string{
		`echo "$BASHPID"`, `echo "${EPOCHSECONDS}"`, "BASH_XTRACEFD=7",
	}},
	{`&>>|\|&|;;?&(\s|$)`, []string{"run &>>log", "run |& tee log", "a) b ;&", "a) b ;;&"}},
	{`(^|\s)\{\w+\}[<>]`, []string{"exec {fd}<file"}},
	{`\{0\d+\.\.\d+\}|\{-?\d+\.\.-?\d+\.\.-?\d+\}`, []string{"echo {01..10}", "echo {1..9..2}"}},
	{`\$'[^']*\\[uU][0-9a-fA-F]`, []string{`echo $'\u2026'`}},
	{`(^|[;&|]\s*)(\.|source)\s+<\(`, []string{". <(settings)", "source <(settings)"}},
	// bash 3.2 ends the command substitution at the first parenthesis of the case.
	{`\$\(\s*case\s|\$\(\s*$`, []string{`name=$(case $1 in a) echo b ;; esac)`, `name=$(`}},
	// GNU programs
	{`\bsed\s+(-\w+\s+)*-\w*[irsz](\s|$)`, []string{"sed -i s/a/b/ file", "sed -n -i p file", "sed -ni p file", "sed -r 's/(a)/b/' file", "sed -z p"}},
	{`\b(sed|grep)\s+(-[A-DF-Za-z]+\s+)*['"].*\\[+?|]`, []string{`sed 's/a\+/b/'`, `sed -n 's/a\?/b/p'`, `grep 'a\|b' file`, `grep -q "a\|b"`}},
	{`\b(sed|grep|awk)\s.*\\[bBdDsSwW<>]`, []string{`sed -E 's/\s+/ /'`, `grep '\bname\b'`, `awk '/\w/'`, `grep -E '\<name\>'`}},
	{`\bgrep\s+(-\w+\s+)*-\w*P|\bgrep\s.*--perl-regexp`, []string{"grep -P 'a' file", "grep -q -oP 'a' file", "grep --perl-regexp a"}},
	{`\bgrep\s+(-\w+\s+)*-\w*z`, []string{"grep -z a"}},
	{`\bsed\s.*\b[gp]?I['";]|\bsed\s.*(,[+~]|\d~)\d|\bsed\s.*/[^/]*\\[nt][^/]*/[gp]?['"]`, []string{
		"sed 's/a/b/I'", "sed '/a/,+2d'", "sed '1~2d'", `sed 's/,/\n/g'`, `sed 's/ /\t/'`,
	}},
	{`\bawk\s.*\b(gensub|strftime|systime|asorti?)\(`, []string{`awk '{print strftime("%F")}'`}},
	{`\bdate\s+(-u\s+)*-[dIR]|\bdate\s.*%N`, []string{"date -d yesterday", "date -u -d @0", "date -Iseconds", "date +%s%N"}},
	{`\breadlink\s.*-\w*[efm]|\brealpath\s`, []string{`readlink -f "$0"`, "realpath file"}},
	{`\bsort\s+(-\w+\s+)*-\w*[VhRz]`, []string{"sort -z", "sort -V", "sort -u -V", "sort -rV", "sort -h"}},
	{`\bstat\s+(-\w+\s+)*-\w*c`, []string{"stat -c %s file", "stat -Lc %s file"}},
	{`\bmktemp\s+(-\w+\s+)*-\w*[pt]\b|\bmktemp\s.*X\.\w`, []string{"mktemp name-XXXX.yaml", "mktemp -p dir", "mktemp -d -p dir", "mktemp -t name"}},
	{`\bxargs\s+(-\w+(\{\})?\s+)*-\w*[adr]\b`, []string{"xargs -I{} -r rm {}", "xargs -r rm", "xargs -0r rm", "xargs -0 -r rm", `xargs -d '\n' rm`, "xargs -a file rm"}},
	{`(^|[\s;&|(])timeout\s+(-\S+\s+)*["$\d]`, []string{"timeout 5 run", "timeout -k 1 5 run", `timeout "$limit" run`}},
	{`\b(head|tail)\s+(-\w+\s+)*-[nc]\s*-\d`, []string{"head -n -1", "head -c-1"}},
	{`\bbase64\s+(-\w+\s+)*-\w*w`, []string{"base64 -w 0", "base64 -w0 file"}},
	{`\bfind\s+-|\bfind\s.*-(printf|regextype|readable|writable|executable)\b`, []string{"find -name a", "find . -printf %p"}},
	{`\b(cp|mv|ln)\s+(-\w+\s+)*-\w*[tT]\b|\bln\s+(-\w+\s+)*-\w*r`, []string{"cp -t dir file", "mv -T a b", "ln -sr a b"}},
	{`\b(base64|chmod|cp|cut|date|du|head|ln|mkdir|mktemp|mv|rm|sed|sort|stat|tail|touch|tr|uniq|wc|xargs)\s([^|;&]*\s)?--[a-z]`, []string{
		"sed --in-place s/a/b/ file", "date --date=yesterday", "mktemp --suffix=.yaml", "xargs --no-run-if-empty rm", "sort --version-sort", "mktemp -d --tmpdir",
	}},
	{`\b(hostname\s+-[iI]|uname\s+-o|touch\s+-d|wc\s+-L|du\s+-\w*b)\b|\bps\s.*--\w`, []string{"hostname -I", "uname -o", "ps aux --sort rss", "du -sb dir"}},
	{`\bsleep\s+(\d+[smhd]|infinity)`, []string{"sleep 1m", "sleep infinity"}},
	{`(^|[\s;&|(])(tac|nproc|(sha\d+|md5)sum|shuf|setsid|numfmt|flock|pidof|getent|gawk|gsed|ss|ip|install\s+-\w*D)(\s|$|[;|)])`, []string{
		"ss -tln", "ip addr", "install -D a b", "tac file", "jobs=$(nproc)", "sha256sum file", "run | md5sum", "setsid run", "flock lock run",
	}},
	{`(^|[\s"'<>=])/(proc|sys)/`, []string{"cat /proc/sys/kernel/random/uuid", "read -r load </proc/loadavg"}},
}

// supported are lines without any of the constructs.
var supported = []string{
	"declare -a names", "local -r name=1", `names+=("x")`, `echo "${name//,/ }" "${name:-,}" "${names[@]}" "${#names[@]}" "${name%%@*}" "${1//./\\.}"`,
	"wait", "run >>log 2>&1", "a || b", "a) b ;;", "read -r -n 1 -t 5 key", "printf -v name %s value", "[[ -n $name ]]", "echo {1..9}", "echo {a,b}.c",
	`[[ $a =~ ^v([0-9]+) ]]`, `cat <<<"$a"`, `IFS=, read -r a b < <(run)`, `. "$dir/file"`, `case $(run) in a) b ;; esac`, `echo "${@:3}"`,
	`sed -E 's/a+|b/c/' file`, `sed -n 's/^ *image: \([a-z]*:.*\)/\1/p' file`, "sed -i.bak s/a/b/ file", `sed -E 's/\+/-/'`, `sed -n '/^# \{0,3\}/p'`,
	`grep -oE 'a|b' file`, `grep -qx a`, `grep -vxF "$a"`, `grep -c '\.svc\.cluster\.local$'`, "awk -F, '{print $2}'", "date +%s", "date -u +%FT%TZ",
	"sort -u", "sort -rn", "mktemp", "folder=$(mktemp -d)", "xargs -0 rm", "xargs", "kubectl wait --timeout=5m job/a", "kubectl rollout status --timeout 3m",
	"head -n 1", "tail -n +2", "tail -20", "base64 -d", "find . -name a", "cp -R a b", "ln -s a b", "sleep 0.5", "sleep 10", "kubectl get pods --sort-by=a",
	"git ls-files -z | xargs -0 go tool misspell -error", "curl --fail-early https://example.com/sys/", "kubectl get events --sort-by=.lastTimestamp | tail -60",
}

func TestConstructs(t *testing.T) {
	for _, construct := range constructs {
		pattern := regexp.MustCompile(construct.pattern)
		for _, line := range construct.lines {
			if !pattern.MatchString(line) {
				t.Errorf("%s does not match %q", construct.pattern, line)
			}
		}
		for _, line := range supported {
			if found := pattern.FindString(line); found != "" {
				t.Errorf("%s matches %q in %q, which macOS supports", construct.pattern, found, line)
			}
		}
	}
}

// empty matches the start of an empty array. expansion matches a use of all elements of an array.
var (
	empty     = regexp.MustCompile(`\b(\w+)=\(\)`)
	expansion = regexp.MustCompile(`(.?)\$\{(\w+)\[[@*]\]\}`)
)

// unbound returns the lines that expand an array that can be empty. With `set -u`, bash 3.2 then reports an unbound
// variable. Such an expansion must have the form ${names[@]+"${names[@]}"}.
func unbound(script string) []string {
	var names, found []string
	for _, match := range empty.FindAllStringSubmatch(script, -1) {
		names = append(names, match[1])
	}
	for line := range strings.Lines(script) {
		guard := regexp.MustCompile(`\$\{(\w+)\[@\]\+"\$\{(\w+)\[@\]\}"\}`).ReplaceAllString(line, "")
		for _, match := range expansion.FindAllStringSubmatch(guard, -1) {
			if slices.Contains(names, match[2]) {
				found = append(found, strings.TrimSpace(line))
			}
		}
	}
	return found
}

func TestUnbound(t *testing.T) {
	for script, want := range map[string]int{
		"names=()\necho \"${names[@]}\"":                  1,
		"names=()\necho \"${names[*]}\"":                  1,
		"a=() b=()\necho \"${a[@]}\" \"${b[@]}\"":         2,
		"names=()\nrun ${names[@]+\"${names[@]}\"}":       0,
		"names=()\n((${#names[@]})) || run":               0,
		"names=(a b)\necho \"${names[@]}\"":               0,
		"names=()\nfor other in \"${others[@]}\"; do":     0,
		"local names=()\nfor name in \"${names[@]}\"; do": 1,
	} {
		if got := unbound(script); len(got) != want {
			t.Errorf("got %q, want %d lines, in\n%s", got, want, script)
		}
	}
}

func TestScriptsRunOnMacOS(t *testing.T) {
	checked := scripts(t)
	makefile, err := os.ReadFile(filepath.Join(root, "Makefile"))
	if err != nil {
		t.Fatal(err)
	}
	checked["Makefile"] = string(makefile)
	var all []string
	for _, construct := range constructs {
		all = append(all, construct.pattern)
	}
	pattern := regexp.MustCompile(strings.Join(all, "|"))
	for path, script := range checked {
		for i, line := range strings.Split(script, "\n") {
			if strings.HasPrefix(strings.TrimSpace(line), "#") {
				continue
			}
			line, _, _ = strings.Cut(line, "docker exec") // commands in a container run on Linux
			if found := pattern.FindString(line); found != "" {
				t.Errorf("%s:%d: macOS does not support %q", path, i+1, strings.TrimSpace(found))
			}
		}
		for _, line := range unbound(script) {
			t.Errorf("%s: with bash 3.2, this line fails if the array is empty: %s", path, line)
		}
	}
}
