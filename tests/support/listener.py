"""A program that listens on TCP ports, for network namespaces."""

# A service on every address and the ports that a host would have open, which says who asks.
LISTENER = """
import selectors, socket, sys
waiting = selectors.DefaultSelector()
for port in map(int, sys.argv[1:]):
    server = socket.create_server(("", port), family=socket.AF_INET6, dualstack_ipv6=True)
    waiting.register(server, selectors.EVENT_READ)
print("ready", flush=True)
while True:
    for key, _ in waiting.select():
        connection, peer = key.fileobj.accept()
        connection.sendall(peer[0].removeprefix("::ffff:").encode())
        connection.close()
"""
