// What people do with dockerode, against the daemon at DOCKER_HOST. Every check is an assert.
import assert from "node:assert/strict";
import { PassThrough } from "node:stream";
import { once } from "node:events";
import Docker from "dockerode";

const docker = new Docker(); // reads DOCKER_HOST
const image = "berth/box";

async function text(stream) {
  const parts = [];
  for await (const part of stream) parts.push(part);
  return Buffer.concat(parts).toString();
}

// demux splits what the daemon sends of a container without a terminal.
async function demux(stream) {
  const out = new PassThrough(), err = new PassThrough();
  docker.modem.demuxStream(stream, out, err);
  stream.on("end", () => { out.end(); err.end(); });
  return Promise.all([text(out), text(err)]);
}

assert.equal((await docker.ping()).toString(), "OK");
assert.equal((await docker.version()).Os, "linux");
assert.ok((await docker.info()).ID);

const events = await docker.getEvents({ filters: { type: ["container"] } });
const seen = [];
events.on("data", (d) => { for (const line of d.toString().split("\n")) if (line) seen.push(JSON.parse(line).Action); });

// run, as its callback form has it; what it writes to ends with the output, which may be later than the answer
const captured = new PassThrough();
const output = text(captured);
const [result, ran] = await docker.run(image, ["sh", "-c", "echo $0 works; exit 3", "this"], captured);
assert.equal(result.StatusCode, 3);
assert.match(await output, /this works/);
await ran.remove();

// create, attach with input, start, wait
const cat = await docker.createContainer({ Image: image, Cmd: ["cat"], OpenStdin: true, StdinOnce: true, AttachStdin: true, AttachStdout: true, name: "node1" });
const attached = await cat.attach({ stream: true, hijack: true, stdin: true, stdout: true, stderr: true });
const streams = demux(attached);
await cat.start();
attached.write("typed by node\n");
attached.end();
assert.deepEqual(await streams, ["typed by node\n", ""]);
assert.equal((await cat.wait()).StatusCode, 0);
await cat.remove();

// a long one
const volume = await docker.createVolume({ Name: "nodevol", Labels: { who: "node" } });
const network = await docker.createNetwork({ Name: "nodenet", CheckDuplicate: true, Labels: { who: "node" } });
const c = await docker.createContainer({
  Image: image, name: "node2", Cmd: ["sh", "-c", "echo out; echo err >&2; while true; do sleep 1; done"], Env: ["A=b"], Labels: { who: "node" },
  ExposedPorts: { "80/tcp": {} },
  HostConfig: { Memory: 64 * 1024 * 1024, Binds: ["nodevol:/data"], NetworkMode: "nodenet", PortBindings: { "80/tcp": [{ HostIp: "127.0.0.1", HostPort: "" }] } },
});
await c.start();
const about = await c.inspect();
assert.equal(about.State.Running, true);
assert.equal(about.HostConfig.Memory, 64 * 1024 * 1024);
assert.ok(Number(about.NetworkSettings.Ports["80/tcp"][0].HostPort) > 0);
assert.equal((await docker.listContainers({ filters: { label: ["who=node"] } })).length, 1);

// exec: code, both streams, a terminal with input
const ex = await c.exec({ Cmd: ["sh", "-c", "echo o; echo e >&2; exit 5"], AttachStdout: true, AttachStderr: true });
assert.deepEqual(await demux(await ex.start({})), ["o\n", "e\n"]);
assert.equal((await ex.inspect()).ExitCode, 5);
const tty = await c.exec({ Cmd: ["cat"], AttachStdin: true, AttachStdout: true, Tty: true });
const terminal = await tty.start({ hijack: true, stdin: true, Tty: true });
await tty.resize({ h: 20, w: 70 });
terminal.write("echoed\n\x04");
assert.match(await text(terminal), /echoed\r\nechoed/);

// logs: as they are, and followed to the end
const log = await c.logs({ stdout: true, stderr: false, follow: false });
assert.match(log.toString(), /out\n/);
const followed = demux(await c.logs({ stdout: true, stderr: true, follow: true }));

// archives
await c.putArchive(await c.getArchive({ path: "/etc/hosts" }), { path: "/data" });
const [copy] = await demux(await (await c.exec({ Cmd: ["cat", "/data/hosts"], AttachStdout: true })).start({}));
assert.match(copy, /localhost/);

const stats = await c.stats({ stream: false });
assert.ok(stats.memory_stats.usage > 0);
assert.ok((await c.top()).Processes.length > 0);
await c.pause();
await c.unpause();
await c.rename({ name: "node3" });
await c.resize({ h: 10, w: 10 }).catch((e) => assert.ok(e.statusCode >= 400)); // it has no terminal
await c.stop({ t: 0 });
assert.deepEqual(await followed, ["out\n", "err\n"]);
await c.remove({ v: true });
await network.remove();
await docker.getVolume("nodevol").remove();

// errors carry Docker's codes
for (const [what, code] of [
  [() => docker.getContainer("nobody").inspect(), 404],
  [() => docker.createContainer({ Image: "no/such:image" }), 404],
  [() => docker.getImage("no/such:image").inspect(), 404],
  [() => docker.createContainer({ Image: image, name: "bad name" }), 400],
]) {
  await assert.rejects(what(), (e) => e.statusCode === code);
}
const twice = await docker.createContainer({ Image: image, name: "twice" });
await assert.rejects(docker.createContainer({ Image: image, name: "twice" }), (e) => e.statusCode === 409);
await twice.remove();

const images = await docker.listImages();
assert.ok(images.some((i) => i.RepoTags.includes("berth/box:latest")));
assert.ok((await docker.getImage(image).history()).length > 0);
const df = await docker.df();
assert.ok(df.Images?.length > 0 || df.ImageUsage.TotalCount > 0); // the second from API 1.53 on
await docker.pruneContainers();

while (seen.filter((a) => a === "destroy").length < 4) await once(events, "data");
events.destroy();
for (const action of ["create", "attach", "start", "die", "pause", "unpause", "rename", "destroy"]) assert.ok(seen.includes(action), `${action} of ${seen}`);
console.log("everything holds");
