#!/usr/bin/env bash
# (c) The SuperLink is restarted in mid-run: the ServerApp runs in the SuperExec, and the run continues. Then the SuperExec
# is restarted, which ends the ServerApp: the run fails, and is resumed to the parameters of an undisturbed run.
. "$(dirname "${BASH_SOURCE[0]}")/federation.sh"
prepare
compose up --detach --wait
say "the federation is up"

submit /config/federation.yaml --out=/runs/first
wait_for 600 "round 2 has begun" in_round 2
compose restart superlink
say "the SuperLink was restarted"
memory "after the restart of the SuperLink"
wait_for 300 "round 2 is over" in_round 3
compose restart superexec
say "the SuperExec was restarted"
! ended || fail "expected that the run failed with its ServerApp"

submit --resume --out=/runs/first
ended || fail "the resumed run did not complete"
memory "after the run"

[ "$(parameters)" = "$(expected)" ] || fail "expected the parameters of an undisturbed run, found others"
say "parameters_sha256 $(parameters), as without the restarts"
say "messages of the other parts about the restarts:"
for part in superexec site-0000; do
  service_log "$part" | grep -iE 'connect|attempt|heartbeat|unavailable|error' | tail -n 8 | sed "s/^/        $part: /" || true
done
