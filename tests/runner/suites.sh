# How tests/run runs suites: several side by side, some alone, and what of a suite was asked for.

# Takes the suites. One after the other compiles what its suite needs, in the background. The others begin as there are places, those
# whose compilation has ended first; what is to be measured runs alone.
run_all() {
    local compiled=() shared=() last=() suite compiler=
    for suite in "$@"; do
        if [ -n "$json" ] && is_in "$suite" "$alone"; then
            last+=("$suite")
        elif is_in "$suite" "$compiling" && [ $# -gt 1 ]; then
            compiled+=("$suite")
        else
            shared+=("$suite")
        fi
    done
    compiled=($(longest_first "$compiling" "${compiled[@]}"))
    if [ ${#compiled[@]} -gt 0 ]; then
        run_compiling "${compiled[@]}" &
        compiler=$!
        background+=("$compiler")
    fi
    local waiting=($(for suite in "${compiled[@]}"; do if is_in "$suite" "$compiled_before"; then echo "$suite"; fi; done))
    waiting+=($(longest_first "$longest" "${shared[@]}"))
    local running=()
    while [ ${#waiting[@]} -gt 0 ]; do
        while [ "$(jobs -rp | grep -cvx "${compiler:-none}\|${shared_kafka:-none}")" -ge "$(places)" ]; do sleep 0.5; done
        suite=$(first_ready "${waiting[@]}")
        if [ -z "$suite" ]; then
            sleep 0.5
            continue
        fi
        waiting=($(printf '%s\n' "${waiting[@]}" | grep -vx "$suite" || true))
        run_suite "$suite" &
        running+=($!)
        background+=($!)
    done
    # What became of a suite is in its log. The shell may have forgotten one whose number was given to another process since.
    running+=(${compiler:+"$compiler"})
    # Without a number it would wait for the shared Kafka, too.
    [ ${#running[@]} -eq 0 ] || wait "${running[@]}" 2>/dev/null || true
    background=()
    for suite in "${last[@]}"; do
        # In the background, because the shell handles a signal only while it waits.
        run_suite "$suite" &
        wait $! || true
    done
    require_summaries "$@"
}

# The first of these suites that need not wait for its compilation, or nothing.
first_ready() {
    local suite
    for suite in "$@"; do
        if ! is_in "$suite" "$compiled_before" || [ -e "$work/compiled-$suite" ] || ! compiles "$compiler"; then
            echo "$suite"
            return
        fi
    done
}

# Whether this process, which compiles, runs still.
compiles() { [ -n "$1" ] && kill -0 "$1" 2>/dev/null; }

# How many suites may share the machine now.
places() {
    local places=$side_by_side
    if [ -e "$work/compiling" ]; then places=$beside_compilers; fi
    if is_overloaded; then echo 1; else echo "$places"; fi
}

# By the processes that wanted a core in the last minute.
is_overloaded() { awk -v most=$((overload * $(nproc))) '{ exit $1 <= most }' /proc/loadavg; }

# The suites behind the first argument: those that it lists in its order, then the others.
longest_first() {
    local listed=$1 suite
    shift
    for suite in $listed; do if is_in "$suite" "$*"; then echo "$suite"; fi; done
    for suite in "$@"; do if ! is_in "$suite" "$listed"; then echo "$suite"; fi; done
}

# Compiles everything at the lowest priority, and runs the suites that call Cargo at the usual one: they measure deadlines.
run_compiling() {
    local suite
    for suite in "$@"; do
        # In a built checkout it is there for seconds, apart from lint.
        touch "$work/compiling"
        if declare -F "before_$suite" >/dev/null; then
            if (idle && "before_$suite") >"$work/before-$suite.log" 2>&1; then
                echo compiled >"$work/compiled-$suite"
            else
                # Where the suite runs it is compiled again, and what fails shows there.
                : >"$work/compiled-$suite"
            fi
        fi
        if is_in "$suite" "$compiled_before"; then
            continue
        elif [ "$suite" = lint ]; then
            (idle && run_suite lint)
        else
            rm "$work/compiling"
            run_suite "$suite"
        fi
    done
    rm -f "$work/compiling"
}

idle() { chrt --idle --pid 0 "$BASHPID"; }

# The processor time of a suite is that of all processes that its tests waited for.
run_suite() {
    local suite=$1 log=$work/$1.log status=0 start=$SECONDS TIMEFORMAT='%U %S'
    : >"$log"
    note "suite $suite"
    { time one_suite "$suite" 2>>"$log"; } 2>"$work/cpu-$suite" | tee -a "$log" | tee "$work/$suite.tests" | show_tests "$suite" || status=$?
    sed -n "s/^\([0-9.]* [0-9.]*\)$/cpu_s_$suite \1/p" "$work/cpu-$suite" | awk '{ print $1, $2 + $3 }' >>"$TESTBED_FIGURES"
    summarize "$suite" "$status" "$log" $((SECONDS - start))
}

one_suite() {
    local suite=$1 status=0
    export TMPDIR=$work
    if declare -F "before_$suite" >/dev/null && [ ! -s "$work/compiled-$suite" ]; then "before_$suite" >&2 || status=$?; fi
    if declare -F "suite_$suite" >/dev/null; then
        "suite_$suite" || status=$?
    else
        run_module "$suite" || status=$?
    fi
    if declare -F "also_$suite" >/dev/null; then "also_$suite" || status=$?; fi
    return $status
}

# A suite that hangs ends itself, not the run.
run_module() {
    local threads=2 filters=($(filters_of "$1")) arguments=() name
    # Most tests wait most of the time: those of the first line need a sixth of a core each.
    case $1 in
    operate | dead_letters) threads=5 ;;
    ordinary | brokers | main_job) threads=4 ;;
    faults | hostile) threads=3 ;;
    languages) threads=1 ;;
    esac
    if [ ${#filters[@]} -gt 0 ]; then
        arguments=("${filters[@]}")
        # A whole name means that test alone, and not those whose names begin with it.
        if tests_named "${filters[0]}" | grep -cFx "${filters[0]}: test" >/dev/null; then arguments+=(--exact); fi
        # What was asked for may be a check that is no Rust test.
        tests_named "${arguments[@]}" | grep -c ': test$' >/dev/null || return 0
    else
        arguments=("$1::")
        if [ -z "$all" ]; then for name in "${only_with_all[@]}"; do arguments+=(--skip "$name"); done; fi
    fi
    bounded $((long ? 43200 : 2400)) "$testbed" "${arguments[@]}" --test-threads $threads
}

# Runs a command for this many seconds at most. It ends with the shell that started it, also where a signal to the whole process group ended
# that shell: `timeout` has a group of its own.
bounded() { setpriv --pdeathsig TERM timeout --kill-after=10 "$@"; }

# The test binary's tests with these names. All of it must be read, because the binary fails when the pipe closes.
tests_named() { "$testbed" --list "$@" 2>/dev/null; }

# The names that were given on the command line for some tests of a suite.
filters_of() {
    local name
    for name in "${wanted[@]}"; do case $name in "$1::"*) echo "$name" ;; esac; done
}

# Whether a test's name begins with one of those that were given for its suite; where none was given, whether it runs without a name.
is_wanted_test() {
    local filter filters=($(filters_of "${1%%::*}"))
    for filter in "${filters[@]}"; do case $1 in "$filter"*) return 0 ;; esac; done
    [ ${#filters[@]} = 0 ] && { [ -n "$all" ] || ! is_in "$1" "${only_with_all[*]}"; }
}

is_wanted() {
    local name
    for name in "${wanted[@]}"; do if [ "${name%%::*}" = "$1" ]; then return 0; fi; done
    [ ${#wanted[@]} = 0 ]
}

# Whether suites were named, and all of them are in this list.
wants_only() {
    local name
    for name in "${wanted[@]}"; do is_in "${name%%::*}" "$1" || return 1; done
    [ ${#wanted[@]} -gt 0 ]
}

# The functions here, then the modules of the test binary.
all_suites() {
    declare -F | sed -n 's/^declare -f suite_//p'
    [ -z "$testbed" ] || tests_named | sed -n 's/^\([a-z0-9_]*\)::.*: test$/\1/p' | sort -u
}

is_in() { case " $2 " in *" $1 "*) return 0 ;; *) return 1 ;; esac; }
