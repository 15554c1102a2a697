# What update-ca-certificates does, for the lab's own authorities alone: it looks at every authority there is, which takes
# an emulated CPU a minute. Run later, it finds them where it would have put them itself. The bundle comes last: it tells
# that all is done.
certs=${1:-/etc/ssl/certs}
local=${2:-/usr/local/share/ca-certificates}
find "$certs" -lname '*hyperscaler*' -delete
for file in "$local"/hyperscaler*.crt; do
    name=$(basename "$file" .crt)
    ln -s "$file" "$certs/$name.pem"
    ln -s "$name.pem" "$certs/$(openssl x509 -noout -hash -in "$file").0"
done
cat "$certs"/*.pem >"$certs/.bundle"
chmod 644 "$certs/.bundle"
mv "$certs/.bundle" "$certs/ca-certificates.crt"
