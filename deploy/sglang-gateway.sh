#!/bin/sh
# SGLang's model gateway before two replicas: `pip install sglang-router`, and then
# `WORKERS="http://127.0.0.1:8081 http://127.0.0.1:8082" deploy/sglang-gateway.sh`.
#
# It sends a conversation to the replica that has read its beginning (`cache_aware`), unless that one has four requests more. A replica that fails, or whose `/ready` says
# that it takes no requests, is left alone until it is well again. `cargo xtask test --clients` runs this file, and kills a replica
# under load.
set -eu
# shellcheck disable=SC2086 # several addresses
exec smg launch \
    --host "${HOST:-127.0.0.1}" --port "${PORT:-30000}" \
    --worker-urls $WORKERS \
    --policy cache_aware --balance-abs-threshold 4 --balance-rel-threshold 1.2 \
    --retry-max-retries 5 --retry-initial-backoff-ms 50 \
    --cb-failure-threshold 1 --cb-timeout-duration-secs 10 \
    --health-check-endpoint /ready --health-check-interval-secs 5 \
    "$@"
