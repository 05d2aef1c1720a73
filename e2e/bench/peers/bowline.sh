# Bowline: the shipped binary in `standalone` mode (a fixed table and certificates from files instead of a control plane).
# BOWLINE_PROXY = path of the binary.
BOWLINE_PROXY=${BOWLINE_PROXY:-$LAB/bowline/release/bowline-proxy}
CAPS="h1 mux h2 l4"
HS_ALPN=bowline/1
HS_SNI=$([ "${BACKEND:-}" ] && echo "${BACKEND##*:}.h1.bowline.internal" || echo 9000.h1.bowline.internal)
available() { [ -x "$BOWLINE_PROXY" ]; }
version() { "$BOWLINE_PROXY" --version | awk '{print $2}'; }
binary() { echo "$BOWLINE_PROXY"; }

# identity NAME
identity() { cat <<C
identity: spiffe://cluster.local/ns/default/sa/$1
certificate: $CERTS/$1.pem
key: $CERTS/$1.key
roots: $CERTS/ca.pem
C
}
start_outbound() { { identity client; cat <<C
outbound:
  listen: $A_ADDR
  protocol: $(case $APP_PROTO in h1) echo http1;; h2) echo http2;; l4) echo tcp;; esac)
  meshPort: ${B_ADDR##*:}
  endpoints:
  - address: ${B_ADDR%:*}:${BACKEND##*:}
    identity: spiffe://cluster.local/ns/default/sa/server
C
} > "$RUN/bowline-a.yaml"; exec "$BOWLINE_PROXY" standalone "$RUN/bowline-a.yaml"; }
start_inbound() { { identity server; cat <<C
inbound:
  mesh: $B_ADDR
  application: $BACKEND
C
} > "$RUN/bowline-b.yaml"; exec "$BOWLINE_PROXY" standalone "$RUN/bowline-b.yaml"; }
