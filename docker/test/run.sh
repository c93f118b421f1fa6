#!/usr/bin/env bash
# (a) A federation with TLS and authentication, from `up` to the end of a run of 3 rounds. `up` exits with the exit code of
# the run, and the parameters are those of the same run in one process.
. "$(dirname "${BASH_SOURCE[0]}")/federation.sh"
prepare

began=$SECONDS
compose up --exit-code-from submit submit &
submitted=$!
wait_for 300 "the run has begun" run_file config.yaml
say "the run began $((SECONDS - began)) s after \`up\`"
wait_for 600 "round 1 is over" in_round 2
say "round 1 was over $((SECONDS - began)) s after \`up\`"
memory "in round 2"
ended || fail "the run did not complete"
memory "after the run"

[ "$(parameters)" = "$(expected)" ] || fail "expected the parameters of the run in one process, found others"
say "parameters_sha256 $(parameters), as in one process"
