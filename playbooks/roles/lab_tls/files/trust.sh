# Does what update-ca-certificates does, but for the lab's own authorities only: that one reads every authority, which
# takes a minute on an emulated CPU. When it runs later, it finds them where it would have put them. The bundle is
# written last, as the mark that all is done.
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
