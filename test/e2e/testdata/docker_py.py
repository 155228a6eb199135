# What people do with Docker's Python SDK, against the daemon at DOCKER_HOST. Every check is an assert.
import io
import os
import socket
import tarfile
import threading

import docker

client = docker.from_env(timeout=60)
api = client.api
IMAGE = "berth/box"

assert client.ping() is True
assert client.version()["ApiVersion"] >= "1.41"
info = client.info()
assert info["OSType"] == "linux" and info["NCPU"] >= 1 and info["Driver"], info

# events are followed from here to the end
seen = []
stream = client.events(decode=True)
follower = threading.Thread(target=lambda: [seen.append((e["Type"], e["Action"])) for e in stream], daemon=True)
follower.start()

# images
image = client.images.get(IMAGE)
assert IMAGE + ":latest" in image.tags, image.tags
assert image.tag("py/copy", tag="1")
assert client.images.get("py/copy:1").id == image.id
assert image.history()[0]["Id"]
assert [i for i in client.images.list(name="py/copy")]
client.images.remove("py/copy:1")
try:
    client.images.get("py/copy:1")
    raise AssertionError("an image that was removed is there")
except docker.errors.ImageNotFound as e:
    assert e.status_code == 404

# run to the end: output, exit code, both streams
assert client.containers.run(IMAGE, ["echo", "hi"], remove=True) == b"hi\n"
assert client.containers.run(IMAGE, "echo words in a line", remove=True) == b"words in a line\n"
try:
    client.containers.run(IMAGE, ["sh", "-c", "echo bad >&2; exit 7"], remove=True)
    raise AssertionError("exit code 7 is no error")
except docker.errors.ContainerError as e:
    assert e.exit_status == 7 and e.stderr == b"bad\n", (e.exit_status, e.stderr)
try:
    client.containers.run(IMAGE, ["no-such-program"], remove=True)
    raise AssertionError("a program that is not there runs")
except docker.errors.APIError as e:
    assert "executable file not found" in e.explanation, e.explanation
try:
    client.containers.get("nobody")
    raise AssertionError("a container that is not there is found")
except docker.errors.NotFound:
    pass

# a long one, with most of what run takes
volume = client.volumes.create("pyvol", labels={"who": "py"})
network = client.networks.create("pynet", driver="bridge", labels={"who": "py"},
                                 ipam=docker.types.IPAMConfig(pool_configs=[docker.types.IPAMPool(subnet=os.environ["TEST_SUBNET"])]))
c = client.containers.run(
    IMAGE, ["sh", "-c", "echo out; echo err >&2; touch /up; while true; do sleep 1; done"], name="py1", hostname="snake",
    detach=True, environment={"A": "b"}, labels={"who": "py"}, network="pynet", volumes={"pyvol": {"bind": "/data", "mode": "rw"}},
    ports={"8080/tcp": ("127.0.0.1", None)}, mem_limit="64m", nano_cpus=500_000_000, pids_limit=50, cap_drop=["NET_RAW"],
    tmpfs={"/scratch": "size=1m"}, ulimits=[docker.types.Ulimit(name="nofile", soft=100, hard=200)], working_dir="/tmp",
    restart_policy={"Name": "on-failure", "MaximumRetryCount": 2}, extra_hosts={"other": "10.9.8.7"}, dns=["10.1.1.1"],
    log_config=docker.types.LogConfig(type="json-file", config={"max-size": "1m"}), init=True, read_only=False,
    healthcheck={"test": ["CMD", "true"], "interval": 1_000_000_000})
c.reload()
assert c.status == "running" and c.attrs["Config"]["Hostname"] == "snake"
host = c.attrs["HostConfig"]
assert host["Memory"] == 64 << 20 and host["NanoCpus"] == 500_000_000 and host["PidsLimit"] == 50 and host["CapDrop"] == ["NET_RAW"], host
assert host["RestartPolicy"] == {"Name": "on-failure", "MaximumRetryCount": 2}
assert c.attrs["NetworkSettings"]["Networks"]["pynet"]["IPAddress"]
assert int(c.ports["8080/tcp"][0]["HostPort"]) > 0
assert [x.id for x in client.containers.list(filters={"label": "who=py"})] == [c.id]
assert c.exec_run(["sh", "-c", "until test -f /up; do sleep 0.01; done"]).exit_code == 0
assert c.logs(stdout=True, stderr=False) == b"out\n" and c.logs(stdout=False, stderr=True) == b"err\n"
assert c.logs(timestamps=True, tail=1).count(b"\n") == 1

# exec: codes, streams apart, environment, user, input over the socket, a terminal
code, output = c.exec_run(["sh", "-c", "echo $A $X; id -u; pwd; exit 3"], environment={"X": "y"}, user="1000", workdir="/data")
assert (code, output) == (3, b"b y\n1000\n/data\n"), (code, output)
code, (out, err) = c.exec_run(["sh", "-c", "echo o; echo e >&2"], demux=True)
assert (code, out, err) == (0, b"o\n", b"e\n")
assert b"".join(c.exec_run(["sh", "-c", "echo 1; echo 2"], stream=True).output) == b"1\n2\n"
ex = api.exec_create(c.id, ["cat"], stdin=True, tty=True)
sock = api.exec_start(ex["Id"], socket=True, tty=True)
raw = getattr(sock, "_sock", sock)
api.exec_resize(ex["Id"], height=20, width=70)
raw.sendall(b"typed\n\x04")
text = b""
while chunk := raw.recv(1024):
    text += chunk
assert text.replace(b"\r", b"").startswith(b"typed\ntyped\n"), text
sock.close()
assert api.exec_inspect(ex["Id"])["ExitCode"] == 0

# archives both ways
data = io.BytesIO()
with tarfile.open(fileobj=data, mode="w:gz") as tar:
    entry = tarfile.TarInfo("dir/note.txt")
    entry.size = 5
    tar.addfile(entry, io.BytesIO(b"hello"))
assert c.put_archive("/data", data.getvalue())
assert c.exec_run(["cat", "/data/dir/note.txt"]).output == b"hello"
chunks, stat = c.get_archive("/data/dir/note.txt")
assert stat["name"] == "note.txt" and stat["size"] == 5
with tarfile.open(fileobj=io.BytesIO(b"".join(chunks))) as tar:
    assert tar.extractfile("note.txt").read() == b"hello"
assert {"Path": "/up", "Kind": 1} in c.diff()
assert b"".join(c.export())[257:262] == b"ustar"

# watching
stats = c.stats(stream=False)
assert stats["memory_stats"]["usage"] > 0 and stats["pids_stats"]["current"] >= 1 and "eth0" in stats["networks"], stats
top = c.top()
assert "PID" in top["Titles"] and top["Processes"]
c.update(mem_limit="80m", memswap_limit="160m")
c.reload()
assert c.attrs["HostConfig"]["Memory"] == 80 << 20

# attached, with input
a = client.containers.create(IMAGE, ["cat"], stdin_open=True, name="py2")
sock = a.attach_socket(params={"stdin": 1, "stdout": 1, "stream": 1})
raw = getattr(sock, "_sock", sock)
a.start()
raw.sendall(b"through the socket\n")
raw.shutdown(socket.SHUT_WR)
got = b""
while chunk := raw.recv(1024):
    got += chunk
assert got[:4] == b"\x01\0\0\0" and got[8:] == b"through the socket\n", got
sock.close()
assert a.wait()["StatusCode"] == 0
a.remove()

# networks
other = client.networks.create("pynet2")
other.connect(c, aliases=["also"])
c.reload()
assert set(c.attrs["NetworkSettings"]["Networks"]) == {"pynet", "pynet2"}
assert "also" in c.attrs["NetworkSettings"]["Networks"]["pynet2"]["Aliases"]
assert client.containers.run(IMAGE, ["sh", "-c", "ping -c 1 also >/dev/null && echo there"], network="pynet2", remove=True) == b"there\n"
other.disconnect(c)
other.remove()

# life
c.pause()
c.reload()
assert c.status == "paused"
c.unpause()
c.rename("py3")
c.restart(timeout=0)
c.reload()
assert c.name == "py3" and c.status == "running"
c.kill()
assert c.wait()["StatusCode"] == 137
c.remove(v=True)
network.remove()
assert volume.attrs["Mountpoint"] and [v.name for v in client.volumes.list(filters={"label": "who=py"})] == ["pyvol"]
volume.remove()
for prune in (client.containers.prune, client.volumes.prune, client.networks.prune, client.images.prune):
    prune()
df = client.df()
assert df.get("Images") or df["ImageUsage"]["TotalCount"] > 0, df  # the second from API 1.53 on

# what was seen
while ("network", "destroy") not in seen or ("volume", "destroy") not in seen:
    if not follower.is_alive():
        break
    threading.Event().wait(0.01)
stream.close()
for event in [("container", "create"), ("container", "start"), ("container", "die"), ("container", "destroy"), ("container", "kill"),
              ("container", "pause"), ("container", "rename"), ("network", "connect"), ("network", "disconnect"), ("volume", "create")]:
    assert event in seen, (event, seen)
print("everything holds")
