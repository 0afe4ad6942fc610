// Makes a Node that was started ahead wait for its program, then leaves without a trace.
//
// Node runs this before its main module (`NODE_OPTIONS=--require`), whose file does not exist yet.
// It blocks on the line to the supervisor; when the program may start it takes the payload (see
// `Payload` in wire.py), writes the program's file, sets arguments and environment, and Node goes
// on as it does after any start. Threads of the job load it once more, as they inherit the option.
"use strict";

const LINE = 62, PAYLOAD = 63;

const Module = module.constructor;
delete require.cache[__filename];
for (const key of Object.keys(Module._pathCache)) delete Module._pathCache[key];
if (!process.abort.disabled) {  // which it is in threads
  const fs = require("fs");
  if (fs.readSync(LINE, Buffer.alloc(4096)) === 0) process.reallyExit(1);
  const payload = Buffer.alloc(fs.fstatSync(PAYLOAD).size);
  for (let at = 0; at < payload.length;) {
    at += fs.readSync(PAYLOAD, payload, at, payload.length - at, at);
  }
  fs.closeSync(LINE);
  fs.closeSync(PAYLOAD);
  const texts = payload.readUInt32LE(0), variables = payload.readUInt32LE(4);
  let length = 8, at = 8 + 4 * (texts + 2 * variables);
  const next = () => {
    const size = payload.readUInt32LE(length);
    length += 4;
    at += size;
    return payload.toString("utf8", at - size, at);
  };
  for (let each = 0; each < texts; each++) process.argv.push(next());
  delete process.env.NODE_OPTIONS;
  for (let each = 0; each < variables; each++) {
    const name = next(), value = next();
    if (process.env[name] !== value) process.env[name] = value;
  }
  fs.writeFileSync(process.argv[1], payload.subarray(at));
}
