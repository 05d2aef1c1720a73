# Bowline: the shipped binary in `standalone` mode (a fixed table and certificates from files instead of a control plane).
# BOWLINE_PROXY = path of the binary.
BOWLINE_PROXY=${BOWLINE_PROXY:-$LAB/bowline/release/bowline-proxy}
CAPS="h1 mux h2 l4"
HS_ALPN=bowline/1
HS_SNI=$([ "${BACKEND:-}" ] && echo "${BACKEND##*:}.h1.bowline.internal" || echo 9000.h1.bowline.internal)
available() { [ -x "$BOWLINE_PROXY" ]; }
version() { "$BOWLINE_PROXY" --version | awk '{print $2}'; }
binary() { echo "$BOWLINE_PROXY"; }
