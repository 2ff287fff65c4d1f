// oomparser FILE: the state machine and the regular expressions of cAdvisor's utils/oomparser, on the lines of a
// file instead of /dev/kmsg. Prints how many kills it tells. A peer for `npm run bench`.
package main

import (
	"bufio"
	"fmt"
	"os"
	"regexp"
	"strconv"
)

var (
	legacyContainer = regexp.MustCompile(`Task in (.*) killed as a result of limit of (.*)`)
	container       = regexp.MustCompile(`oom-kill:constraint=(.*),nodemask=(.*),cpuset=(.*),mems_allowed=(.*),oom_memcg=(.*),task_memcg=(.*),task=(.*),pid=(.*),uid=(.*)`)
	lastLine        = regexp.MustCompile(`Killed process ([0-9]+) \((.+)\)`)
	firstLine       = regexp.MustCompile(`invoked oom-killer:`)
)

type instance struct {
	pid                              int
	process, limit, victim, constraint string
}

func (found *instance) containerLine(line string) bool {
	if match := container.FindStringSubmatch(line); match != nil {
		found.limit, found.victim, found.constraint, found.process = match[5], match[6], match[1], match[7]
		found.pid, _ = strconv.Atoi(match[8])
		return true
	}
	if match := legacyContainer.FindStringSubmatch(line); match != nil {
		found.victim, found.limit = match[1], match[2]
	}
	return false
}

func (found *instance) last(line string) bool {
	match := lastLine.FindStringSubmatch(line)
	if match == nil {
		return false
	}
	found.pid, _ = strconv.Atoi(match[1])
	found.process = match[2]
	return true
}

func main() {
	file, err := os.Open(os.Args[1])
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	lines := bufio.NewScanner(file)
	lines.Buffer(make([]byte, 1<<20), 1<<24)
	kills := 0
	for lines.Scan() {
		if !firstLine.MatchString(lines.Text()) {
			continue
		}
		found := &instance{}
		finished := false
		for !finished && lines.Scan() {
			line := lines.Text()
			if finished = found.containerLine(line); !finished {
				finished = found.last(line)
			}
		}
		kills++
	}
	fmt.Println(kills)
}
