#!/bin/sh
# An authority for TLS between the gateways and the Tritons, and a certificate for each side, in tls/.
# `kubectl apply -k deploy/kubernetes` makes secrets of them. Run it again to renew both, apply, and
# restart the Tritons at once: they read their files when they start, while the gateways follow theirs.
# Until a Triton is restarted no gateway can ask it, and its probe fails.
#
#     deploy/kubernetes/certificates.sh [NAME...]     Tritons' names (default: triton-blue triton-green)
set -eu
umask 077
cd "$(dirname "$0")"
DAYS=${DAYS:-365}
[ $# -gt 0 ] || set -- triton-blue triton-green
names=$(printf ',DNS:%s' "$@")

certificate() { # SIDE EXTENSIONS
    mkdir -p "tls/$1"
    openssl req -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -keyout "tls/$1/tls.key" \
        -subj "/CN=$1" -out tls/request.pem 2>/dev/null
    printf '%s\n' "$2" >tls/extensions
    openssl x509 -req -in tls/request.pem -CA tls/ca.crt -CAkey tls/ca.key -CAcreateserial \
        -days "$DAYS" -extfile tls/extensions -out "tls/$1/tls.crt" 2>/dev/null
    cp tls/ca.crt "tls/$1/ca.crt"
}

rm -rf tls && mkdir tls
openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -keyout tls/ca.key \
    -subj "/CN=qwen3guard Tritons" -days "$DAYS" -out tls/ca.crt 2>/dev/null
# A Triton's is also shown to itself, by the probe in its container.
certificate triton "subjectAltName=DNS:localhost$names
extendedKeyUsage=serverAuth,clientAuth"
certificate gateway "subjectAltName=DNS:guard-gateway
extendedKeyUsage=clientAuth"
# Who has the authority's key can make a gateway's certificate, so it is not kept.
rm -f tls/ca.key tls/ca.srl tls/request.pem tls/extensions
