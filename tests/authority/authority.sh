#!/usr/bin/env bash
# A timestamp authority made of openssl, for tests.
#
#   authority.sh make DIR ALGORITHM [NAME]     root, and certificates that it signs: ALGORITHM is rsa, p256 or p384
#   authority.sh issue DIR EXTENSIONS OUT [FROM UNTIL]   another certificate: tsa, soft (purpose not critical), plain (no purpose)
#   authority.sh reply DIR CERTIFICATE QUERY REPLY       answers a request
#   authority.sh chained DIR CERTIFICATE QUERY REPLY     the same, with the root in the token as well
#   authority.sh resign DIR CERTIFICATE REPLY OUT        the same token by another certificate, whatever its purpose
#   authority.sh revoke DIR CERTIFICATE REASON           and makes DIR/crl.pem and DIR/crl.der anew
#   authority.sh crl DIR                                 makes them
#   authority.sh scoped DIR                              makes them as lists that speak of certificate authorities alone
# CERTIFICATE is a name in DIR: 'tsa' for DIR/tsa.pem and DIR/tsa.key. Everything is made without questions and network.
set -euo pipefail

key() { # OUT ALGORITHM
  case $2 in
    rsa) openssl genpkey -quiet -algorithm RSA -pkeyopt rsa_keygen_bits:2048 -out "$1" 2> /dev/null || openssl genpkey -algorithm RSA -pkeyopt rsa_keygen_bits:2048 -out "$1" 2> /dev/null ;;
    p256) openssl genpkey -algorithm EC -pkeyopt ec_paramgen_curve:P-256 -out "$1" ;;
    p384) openssl genpkey -algorithm EC -pkeyopt ec_paramgen_curve:P-384 -out "$1" ;;
    *) echo "no algorithm '$2'" >&2; exit 64 ;;
  esac
}

config() { # DIR
  cat > "$1/openssl.cnf" << CONFIG
[ca]
default_ca = c
[c]
database = $1/index
serial = $1/serial
crlnumber = $1/crlnumber
new_certs_dir = $1
certificate = $1/root.pem
private_key = $1/root.key
default_md = sha256
default_days = 3650
default_crl_days = 30
unique_subject = no
policy = p
crl_extensions = crl
[p]
commonName = supplied
[req]
distinguished_name = dn
[dn]
[root]
basicConstraints = critical,CA:TRUE
keyUsage = critical,keyCertSign,cRLSign
subjectKeyIdentifier = hash
[tsa]
basicConstraints = CA:FALSE
keyUsage = critical,digitalSignature
extendedKeyUsage = critical,timeStamping
subjectKeyIdentifier = hash
authorityKeyIdentifier = keyid
[soft]
basicConstraints = CA:FALSE
extendedKeyUsage = timeStamping
[plain]
basicConstraints = CA:FALSE
keyUsage = critical,digitalSignature
[crl]
authorityKeyIdentifier = keyid:always
[scoped]
authorityKeyIdentifier = keyid:always
issuingDistributionPoint = critical, @idp
[idp]
fullname = URI:http://crl.invalid/authorities
onlyCA = TRUE
[ts]
default_tsa = t
[t]
serial = $1/tsserial
crypto_device = builtin
signer_digest = sha256
default_policy = 1.2.3.4.1
digests = sha256
accuracy = secs:1
ess_cert_id_alg = sha256
CONFIG
}

issue() { # DIR EXTENSIONS OUT [FROM UNTIL]
  local dir=$1 dates=()
  [ $# -lt 5 ] || dates=(-startdate "$4" -enddate "$5")
  key "$dir/$3.key" "$(cat "$dir/algorithm")"
  openssl req -new -config "$dir/openssl.cnf" -key "$dir/$3.key" -subj "/CN=$(cat "$dir/name") $3" -out "$dir/$3.csr"
  openssl ca -batch -notext -config "$dir/openssl.cnf" -extensions "$2" "${dates[@]}" -in "$dir/$3.csr" -out "$dir/$3.pem" 2> "$dir/log" || { cat "$dir/log" >&2; exit 1; }
}

crl() { # DIR [EXTENSIONS]
  openssl ca -gencrl -config "$1/openssl.cnf" -crlexts "${2:-crl}" -out "$1/crl.pem" 2> /dev/null
  openssl crl -in "$1/crl.pem" -outform DER -out "$1/crl.der"
}

what=$1; shift
# A folder may have been moved since it was made.
[ "$what" = make ] || config "$(cd "$1" && pwd)"
case $what in
  make)
    dir=$1; mkdir -p "$dir"; dir=$(cd "$dir" && pwd)
    config "$dir"; : > "$dir/index"; echo 01 > "$dir/serial"; echo 01 > "$dir/crlnumber"; echo 01 > "$dir/tsserial"
    echo "$2" > "$dir/algorithm"; echo "${3:-Test Authority}" > "$dir/name"
    key "$dir/root.key" "$2"
    openssl req -new -x509 -config "$dir/openssl.cnf" -extensions root -key "$dir/root.key" -days 7300 -subj "/CN=$(cat "$dir/name") root" -out "$dir/root.pem"
    issue "$dir" tsa tsa
    crl "$dir"
    ;;
  issue) issue "$@" ;;
  crl) crl "$1" ;;
  scoped) crl "$1" scoped ;;
  reply)
    # openssl wants its own idea of who may sign; its complaint is ours.
    openssl ts -reply -config "$1/openssl.cnf" -section t -queryfile "$3" -signer "$1/$2.pem" -inkey "$1/$2.key" -out "$4" > "$1/log" 2>&1 || { cat "$1/log" >&2; exit 1; }
    ;;
  chained)
    openssl ts -reply -config "$1/openssl.cnf" -section t -queryfile "$3" -signer "$1/$2.pem" -inkey "$1/$2.key" -chain "$1/root.pem" -out "$4" > "$1/log" 2>&1 || { cat "$1/log" >&2; exit 1; }
    ;;
  resign)
    t=$(mktemp -d); trap 'rm -rf "$t"' EXIT
    export OPENSSL_CONF=$1/openssl.cnf
    openssl ts -reply -in "$3" -token_out -out "$t/token" 2> /dev/null
    openssl cms -verify -noverify -inform DER -in "$t/token" -out "$t/tst" 2> /dev/null
    openssl cms -sign -binary -nodetach -econtent_type 1.2.840.113549.1.9.16.1.4 -in "$t/tst" -signer "$1/$2.pem" -inkey "$1/$2.key" -md sha256 -cades -outform DER -out "$t/again"
    openssl ts -reply -in "$t/again" -token_in -out "$4" 2> /dev/null
    ;;
  revoke)
    openssl ca -revoke "$1/$2.pem" -crl_reason "$3" -config "$1/openssl.cnf" 2> /dev/null
    crl "$1"
    ;;
  *) sed -n '2,14p' "$0" >&2; exit 64 ;;
esac
