#!/usr/bin/env bash
# Runs a study in pieces, each of which ends resumable: for a machine that is lent for minutes at a time.
#
#   benchmarks/pieces.sh SECONDS CONFIG [MORE ARGUMENTS OF search.run]
#
# A piece is interrupted after SECONDS, as by Ctrl-C, and killed if it has not ended 30 s later; the next one continues, in
# the search and in the evaluation alike. SECONDS must hold the start (half a minute) and the longest epoch, better twice.
# PIECES in the environment says how many there may be. Exit code: 124 if they did not suffice, else that of search.run:
# 0 with the report, 130 for a Ctrl-C by hand.
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
