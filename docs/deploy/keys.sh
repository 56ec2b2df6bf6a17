#!/bin/sh
# Makes the certificates and keys of a federation in DIR (default: keys), and leaves alone what is there already.
#
#   HOST=fleet.example.org sh docs/deploy/keys.sh [DIR]                the CA, and the server's certificate for that name
#   HOST=fleet.example.org SITES="a b" sh docs/deploy/keys.sh [DIR]    and a node key for each of these sites
#   RENEW=1 HOST=fleet.example.org sh docs/deploy/keys.sh [DIR]        a new server certificate from the same CA
#
# DIR/ca.crt          what everybody trusts: give it to every site
# DIR/ca.key          signs certificates: only for renewing; keep it away from the server
# DIR/server/         server.pem and server.key: the server's alone
# DIR/sites/NAME/     node and node.pub: a site's. Better: the hospital makes its own (docs/deploy.md) and sends node.pub
set -eu
umask 077
dir=${1:-keys}
host=${HOST:?say the server\'s name or address: HOST=fleet.example.org}
case $host in
  *[!A-Za-z0-9.:-]* | -*) echo "keys: HOST=$host is neither a host name nor an address" >&2; exit 2 ;;
  *:*) alternative="IP:$host" ;;
  *[!0-9.]*) alternative="DNS:$host" ;;
  *) alternative="IP:$host" ;;
esac
if [ -n "${RENEW:-}" ] && [ ! -e "$dir/ca.key" ]; then
  echo "keys: there is nothing to renew in $dir: no ca.key" >&2
  exit 2
fi
mkdir -p "$dir/server" "$dir/sites"

if [ ! -e "$dir/ca.key" ]; then
  openssl ecparam -name prime256v1 -genkey -noout -out "$dir/ca.key"
  openssl req -x509 -new -sha256 -key "$dir/ca.key" -days 3650 -subj "/CN=SiteStream CA of $host" \
    -addext "basicConstraints=critical,CA:TRUE,pathlen:0" -addext "keyUsage=critical,keyCertSign,cRLSign" -out "$dir/ca.crt"
  echo "made $dir/ca.crt"
fi

if [ ! -e "$dir/server/server.pem" ] || [ -n "${RENEW:-}" ]; then
  [ -e "$dir/server/server.key" ] || openssl ecparam -name prime256v1 -genkey -noout -out "$dir/server/server.key"
  # localhost too: behind a reverse proxy the SuperLink itself listens there, with the same certificate
  cat > "$dir/server/extensions" <<END
basicConstraints = critical, CA:FALSE
keyUsage = critical, digitalSignature
extendedKeyUsage = serverAuth
subjectKeyIdentifier = hash
authorityKeyIdentifier = keyid
subjectAltName = $alternative, DNS:localhost, IP:127.0.0.1
END
  openssl req -new -sha256 -key "$dir/server/server.key" -subj "/CN=$host" -out "$dir/server/request"
  openssl x509 -req -sha256 -in "$dir/server/request" -CA "$dir/ca.crt" -CAkey "$dir/ca.key" -CAcreateserial \
    -days "${DAYS:-397}" -extfile "$dir/server/extensions" -out "$dir/server/server.new" 2> "$dir/server/said" \
    || { cat "$dir/server/said" >&2; exit 1; }
  mv "$dir/server/server.new" "$dir/server/server.pem"
  rm -f "$dir/server/request" "$dir/server/extensions" "$dir/server/said"
  echo "made $dir/server/server.pem for $host, valid until $(openssl x509 -in "$dir/server/server.pem" -noout -enddate | cut -d= -f2)"
fi

for site in ${SITES:-}; do
  case $site in
    [!A-Za-z0-9]* | *[!A-Za-z0-9_-]*) echo "keys: $site is no site name (letters, digits, - and _)" >&2; exit 2 ;;
  esac
  [ -e "$dir/sites/$site/node" ] && continue
  mkdir -p "$dir/sites/$site"
  ssh-keygen -q -t ecdsa -b 384 -N "" -C "$site" -f "$dir/sites/$site/node"
  cp "$dir/ca.crt" "$dir/sites/$site/ca.crt"
  echo "made $dir/sites/$site/node and node.pub"
done
chmod a+r "$dir/ca.crt"
