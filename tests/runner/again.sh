# Runs tests that failed once more, when all suites have ended.
#
# A flaky test is a defect. The second run only keeps one slow moment of a shared machine from hiding what all the other tests
# say. It never excuses a failure in which records differed, nor one of the suites below, and none if many tests failed.

# Suites whose checks don't depend on the moment, or which compare records in another way than tests/src/verify.rs does.
never_again=" lint fuzz readers versions bench quickstart tutorial "
# If more tests failed than this, it was no slow moment.
most_again=3

run_failed_again() {
    [ -s "$work/failed" ] && [ "$(wc -l <"$work/failed")" -le $most_again ] || return 0
    local name
    while IFS= read -r name <&3; do
        if may_run_again "$name"; then run_again "$name"; fi
    done 3<"$work/failed"
}

# Only a test: a suite that ended without a failed one didn't fail at one moment. The marker is DIFFER of tests/src/verify.rs.
may_run_again() {
    local suite=${1%%::*}
    [ "$suite" != "$1" ] && ! is_in "$suite" "$never_again" && ! grep -q 'RECORDS DIFFER' "$work/$suite.log" &&
        ! grep -qxs "$suite" "$work/broken-off"
}

run_again() {
    local name=$1 suite=${1%%::*} log=$work/again-${1//[^a-zA-Z0-9_]/-}.log status=0 start=$SECONDS passed failed seconds
    local wanted=("$name")
    note "once more, alone: $name"
    # In the background, because the shell handles a signal only while it waits.
    one_suite "$suite" >"$log" 2>&1 &
    background=($!)
    wait $! || status=$?
    background=()
    if [ "$status" = 0 ] && grep -qE '^test .* \.\.\. ok$' "$log" && ! grep -qE '^test .* \.\.\. (FAILED|ignored)' "$log"; then
        note "ok      $name"
        sed -i "1s/.*/FLAKY   ${name//\//\\/}: it failed, and passed when it ran once more, alone, in $((SECONDS - start)) s/" \
            "$(failure_of "$name")"
        echo "$name" >>"$work/flaky"
        read -r passed failed seconds < <(awk -v "s=$suite" '$1 == s { line = $2 " " $3 } END { print line }' "$work/counts")
        seconds=$(awk -v "s=seconds_$suite" '$1 == s { line = $2 } END { print line }' "$TESTBED_FIGURES")
        count_tests "$suite" $((passed + 1)) $((failed - 1)) "$seconds"
    else
        note "FAILED  $name"
        {
            sed '$d' "$(failure_of "$name")"
            echo "        and when it ran once more, alone:"
            said_by "$(name_in_log "$name" "$log")" "$log" | readable
            echo "        alone: tests/run $name"
        } >"$work/both"
        mv "$work/both" "$(failure_of "$name")"
    fi
}

# The name that the log has: with or without the suite.
name_in_log() { if grep -qF "test $1 ... " "$2"; then echo "$1"; else echo "${1#*::}"; fi; }

count_flaky() { if [ -e "$work/flaky" ]; then wc -l <"$work/flaky"; else echo 0; fi; }
