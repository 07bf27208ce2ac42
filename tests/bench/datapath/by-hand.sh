#!/usr/bin/env bash
# The peer: what a responder would type. Sends a file or a folder through zstd -1 and socat with mutual TLS to a receiver
# that keeps it compressed; both ends take the SHA-256 of the raw bytes, with openssl because it uses the processor's SHA
# instructions (sha256sum of many distributions does not); the receiver syncs what it wrote.
#
#   by-hand.sh tee|twice|tar|local WORK PORT DATA
#
#   tee    one read of a file, piped to the hash and to zstd (what works for every source)
#   twice  hash and zstd read the file each for itself (saves a pipe; a file that changes between gets a wrong hash)
#   tar    a folder as tar, then as tee
#   local  a folder as tar through zstd -1 into a file, without hash and network
#
# Prints: SECONDS BYTES_STORED DIGEST_NEAR DIGEST_FAR. The clock begins when the receiver listens.
set -euo pipefail
how=$1 work=$2 port=$3 data=$4
mkdir -p "$work"
cd "$work"
rm -f near far near.fifo out.zst listening
# When one program of a pipeline fails, the others must not wait for it for ever.
trap 'kill $(jobs -p) 2> /dev/null || true' EXIT

seconds() { awk -v a="$begin" -v b="$EPOCHREALTIME" 'BEGIN { printf "%.6f", b - a }'; }

if [ "$how" = local ]; then
  begin=$EPOCHREALTIME
  tar -C "$data" -cf - . | zstd -1 -T0 -q -o out.zst
  sync out.zst
  echo "$(seconds) $(stat -c %s out.zst) - -"
  exit
fi

if [ ! -f near.pem ]; then
  for end in near far; do
    openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 2 -subj /CN=localhost \
      -keyout "$end.key" -out "$end.crt" 2> /dev/null
    cat "$end.key" "$end.crt" > "$end.pem"
  done
fi

# Blocks of 256 KiB: measured faster than socat's default of 8 KiB.
{
  socat -u -b 262144 -d -d "OPENSSL-LISTEN:$port,bind=127.0.0.1,reuseaddr,cert=far.pem,cafile=near.crt,verify=1" STDOUT 2> listening \
    | tee out.zst | zstd -dc -q | openssl dgst -sha256 -r > far
  sync out.zst
} &
receiver=$!
until grep -q ' listening on ' listening 2> /dev/null; do
  kill -0 "$receiver"
  sleep 0.01
done

send() { zstd -1 -T0 -q -c | socat -u -b 262144 STDIN "OPENSSL:127.0.0.1:$port,cert=near.pem,cafile=far.crt,verify=1,commonname=localhost"; }

begin=$EPOCHREALTIME
mkfifo near.fifo
case $how in
  tee)   openssl dgst -sha256 -r < near.fifo > near & hash=$!; tee near.fifo < "$data" | send ;;
  tar)   openssl dgst -sha256 -r < near.fifo > near & hash=$!; tar -C "$data" -cf - . | tee near.fifo | send ;;
  twice) openssl dgst -sha256 -r < "$data" > near & hash=$!; send < "$data" ;;
esac
wait "$hash"
wait "$receiver"
echo "$(seconds) $(stat -c %s out.zst) $(cut -c -64 near) $(cut -c -64 far)"
rm -f out.zst
