# What tests/run prints: a line for each test, what a failed one said, how far the preparation is, and the figures.

# Prints a line for each test that has ended.
show_tests() {
    local line name
    while IFS= read -r line; do
        name=${line#test }
        name=${name% ... *}
        case $line in
        "test "*" ... ok") note "ok      $(full_name "$1" "$name")" ;;
        "test "*" ... "*) note "${line##* ... }  $(full_name "$1" "$name")" ;;
        esac
    done
}

full_name() { case $2 in "$1::"*) echo "$2" ;; *) echo "$1::$2" ;; esac; }

# Counts a suite's tests. A suite that ended with an error and without a failed test counts as one failed test, and so
# does one without any test; so do tests that were ignored. A suite that did not come to its end is never excused by a second
# run of a test that failed before.
summarize() {
    local suite=$1 status=$2 log=$3 seconds=$4 p f
    # Not from the log, in which what a suite writes to its standard error may stand in the same line.
    p=$(grep -cE '^test .* \.\.\. ok$' "$work/$suite.tests" || true)
    f=$(grep -cE '^test .* \.\.\. (FAILED|ignored)' "$work/$suite.tests" || true)
    if [ "$f" = 0 ] && { [ "$status" != 0 ] || [ "$p" = 0 ]; }; then
        f=1
        # What doesn't compile is said long before the end.
        { grep -m 3 -A 12 '^error' "$log" | head -n 40 || true; tail -n 40 "$log"; } |
            write_failure "$suite" "FAILED  $suite: it ended with code $status after $p passed tests and without a failed one"
        echo "$suite" >>"$work/failed"
    fi
    sed -nE 's/^test (.*) \.\.\. (FAILED|ignored).*/\1/p' "$work/$suite.tests" | while IFS= read -r name; do
        said_by "$name" "$log" | write_failure "$(full_name "$suite" "$name")" "FAILED  $(full_name "$suite" "$name")"
        full_name "$suite" "$name" >>"$work/failed"
    done
    # 101 is how a Rust test binary ends after a failed test; what it prints last is its result.
    if [ "$status" != 0 ] && { [ "$status" != 101 ] || ! grep -q '^test result: FAILED' "$log"; }; then
        echo "$suite" >>"$work/broken-off"
    fi
    count_tests "$suite" "$p" "$f" "$seconds"
    note "suite $suite: $p passed and $f failed in $seconds s"
}

# Takes the suites that were to run. One without a summary counts as one failed test: its shell was killed, or the machine had no room
# for it.
require_summaries() {
    local suite log p
    for suite in "$@"; do
        if grep -qs "^$suite " "$work/counts"; then continue; fi
        log=$work/$suite.log
        p=$(grep -csE '^test .* \.\.\. ok$' "$log" || true)
        { tail -n 40 "$log" 2>&1 || true; } |
            write_failure "$suite" "FAILED  $suite: its shell ended before it had counted the tests, of which ${p:-0} had passed"
        echo "$suite" >>"$work/failed"
        echo "$suite" >>"$work/broken-off"
        count_tests "$suite" "${p:-0}" 1 0
        note "suite $suite: no summary"
    done
}

# Takes a suite and how many of its tests passed and failed. Of what was counted before for the suite only the last counts.
count_tests() {
    printf 'passed_%s %s\nfailed_%s %s\nseconds_%s %s\n' "$1" "$2" "$1" "$3" "$1" "$4" >>"$TESTBED_FIGURES"
    echo "$1 $2 $3" >>"$work/counts"
}

# Takes a test and a headline, and from the standard input what is to be printed of the test at the end.
write_failure() {
    {
        echo "$2"
        readable
        echo "        alone: tests/run $1"
    } >"$(failure_of "$1")"
}

failure_of() { echo "$work/failures/${1//[^a-zA-Z0-9_]/-}"; }

# Long lines go on in the next one. Only of what is very long the end is left out.
readable() { cut -c1-3000 | fold -s -w 150 | sed 's/^/        /'; }

# What a failed test printed: its own section if it is a Rust test, or the lines before its result.
said_by() {
    awk -v "head=---- $1 stdout ----" '
        $0 == head { on = 1; next }
        on && (/^---- .* stdout ----$/ || /^failures:$/) { exit }
        on && NF && n++ < 40
    ' "$2" | grep . || grep -B 30 -m 1 -F "test $1 ... " "$2" || true
}

# A step of the preparation. Its output goes to a log; every half minute a line says how far it is.
background=()
step() {
    local title=$1 start=$SECONDS log status=0 job said
    shift
    log=$work/step-${title//[^a-z]/-}.log
    note "$title"
    "$@" >"$log" 2>&1 &
    job=$!
    said=$SECONDS
    while kill -0 $job 2>/dev/null; do
        sleep 0.2
        if [ $((SECONDS - said)) -ge 30 ]; then
            said=$SECONDS
            note "$title: $((SECONDS - start)) s, $(tail -n 1 "$log" | cut -c1-100)"
        fi
    done
    wait $job || status=$?
    grep '^setup: ' "$log" || true
    if [ $status != 0 ]; then
        tail -n 60 "$log"
        fail "$title: failed with code $status"
    fi
    note "$title: done in $((SECONDS - start)) s"
}

# The process of the Kafka that the suites share, if there is one.
shared_kafka=
finish() {
    local status=$1 job passed failed
    if [ "$BASHPID" = $$ ] && [ -n "$shared_kafka" ] && has_failures; then
        cp "$(sed -n 's/^LOGS=//p' "$work/kafka.out")"/kafka-*.log "$work" || true
    fi
    for job in "${background[@]}" $(jobs -p); do end_tree "$job"; done
    [ "$BASHPID" = $$ ] || exit "$status"
    [ -z "$shared_kafka" ] || wait "$shared_kafka" 2>/dev/null || true
    if [ -n "$list" ] && [ "$status" = 0 ]; then rm -rf "$work" && exit 0; fi
    read -r passed failed < <(counted)
    [ "$status" = 0 ] || failed=$((failed + 1))
    [ -z "$json" ] || write_json "$passed" "$failed" >"$json"
    if [ "$failed" = 0 ] && ! has_failures; then
        rm -rf "$work"
    else
        ! has_failures || cat "$work/failures"/*
        note "logs are kept in $work"
    fi
    echo "$passed passed, $failed failed"
    [ "$failed" = 0 ] && [ "$passed" -gt 0 ] || exit 1
    exit 0
}

# How many tests passed and failed in all suites.
counted() {
    [ -e "$work/counts" ] || echo 0 0 0 >"$work/counts"
    awk '{ p[$1] = $2; f[$1] = $3 } END { for (s in p) { passed += p[s]; failed += f[s] } print passed + 0, failed + 0 }' "$work/counts"
}

has_failures() { [ -n "$(ls -A "$work/failures" 2>/dev/null)" ]; }

# Of figures with the same name the last one counts.
write_json() {
    {
        cat "$TESTBED_FIGURES"
        printf 'seconds %s\npassed %s\nfailed %s\nflaky %s\n' $((SECONDS - begin)) "$1" "$2" "$(count_flaky)"
    } | awk 'BEGIN { print "{" } { if (!($1 in v)) k[++n] = $1; v[$1] = $2 }
        END { for (i = 1; i <= n; i++) printf "  \"%s\": %s%s\n", k[i], v[k[i]], i < n ? "," : ""; print "}" }'
}

# Ends a process and what it started, by their ids.
end_tree() {
    local child
    for child in $(cat "/proc/$1/task/$1/children" 2>/dev/null); do end_tree "$child"; done
    kill "$1" 2>/dev/null || true
}

note() { printf '[%4d s] %s\n' $((SECONDS - begin)) "$*"; }
fail() { note "error: $*" && exit 1; }
