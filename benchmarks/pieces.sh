#!/usr/bin/env bash
# Runs a study in pieces, each of which can be resumed: for a machine that you may have for minutes at a time only.
#
#   benchmarks/pieces.sh SECONDS CONFIG [MORE ARGUMENTS OF search.run]
#
# A piece is interrupted after SECONDS, as by Ctrl-C, and killed if it has not ended 30 s later. The next piece continues the
# search or the evaluation. SECONDS must be longer than the start (half a minute) plus the longest epoch, better twice as
# long. PIECES in the environment limits their number. Exit code: 124 if the pieces did not suffice, else that of
# search.run: 0 with the report, 130 for a Ctrl-C by hand.
set -euo pipefail
seconds=$1
shift
for ((piece = 1; piece <= ${PIECES:-1000}; piece++)); do
  code=0
  timeout --foreground --signal=INT --kill-after=30 "$seconds" python -m search.run "$@" --resume || code=$?
  [ "$code" -eq 124 ] || [ "$code" -eq 137 ] || exit "$code"
  echo "Piece $piece ended after $seconds s, resumable."
done
exit 124
