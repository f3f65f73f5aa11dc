// WebSocket echo, both ends of it, for messages that a proxy between them has to pass.
//
//   node echo.mjs serve PORT
//   node echo.mjs load PORT CONNECTIONS BYTES SECONDS 'NAME: VALUE'...
//
// `load` speaks TLS. It prints `ready` when every connection is open, begins when a line comes on
// its standard input, and prints `{"messages": N}`. On each connection one message is under way at a
// time; each differs from the last, and the echo has to be the same byte for byte. The mask is zero:
// masking is work of the two ends, which are not what is measured.

import { createHash } from 'node:crypto';
import { once } from 'node:events';
import net from 'node:net';
import tls from 'node:tls';

const HOST = 'localhost';
const [, , what, ...rest] = process.argv;
await (what === 'serve' ? serve : load)(...rest);

function serve(port) {
  net.createServer(answer).listen(Number(port), '127.0.0.1');
}

function answer(socket) {
  socket.setNoDelay(true);
  socket.on('error', () => socket.destroy());
  let open = false;
  let held = Buffer.alloc(0);
  socket.on('data', (data) => {
    held = held.length ? Buffer.concat([held, data]) : data;
    if (!open) {
      const end = held.indexOf('\r\n\r\n');
      if (end < 0) return;
      const key = /sec-websocket-key: *(\S+)/i.exec(held.toString('latin1', 0, end));
      // What a proxy looks at to see whether it is alive.
      if (!key) return socket.end('HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\n\r\n');
      const accept = createHash('sha1').update(`${key[1]}258EAFA5-E914-47DA-95CA-C5AB0DC85B11`).digest('base64');
      const head = ['HTTP/1.1 101 Switching Protocols', 'Upgrade: websocket', 'Connection: Upgrade'];
      socket.write([...head, `Sec-WebSocket-Accept: ${accept}`, '', ''].join('\r\n'));
      held = held.subarray(end + 4);
      open = true;
    }
    for (let size; (size = frame(held)) && held.length >= size.whole; held = held.subarray(size.whole)) {
      if ((held[0] & 0x0f) === 8) return socket.end();
      socket.write(message(held.subarray(size.header, size.whole), false));
    }
  });
}

async function load(port, connections, bytes, seconds, ...headers) {
  let messages = 0;
  let running = false;
  const all = [];
  for (let number = 0; number < Number(connections); number += 1) {
    all.push(await connect(Number(port), Number(bytes), headers, () => {
      messages += 1;
      return running;
    }));
  }
  console.log('ready');
  await once(process.stdin, 'data');
  running = true;
  for (const send of all) send();
  await new Promise((resolve) => setTimeout(resolve, Number(seconds) * 1000));
  running = false;
  console.log(JSON.stringify({ messages }));
  process.exit(0);
}

// Opens a connection. Returns how to send the first message; `echoed` says whether to go on.
async function connect(port, bytes, headers, echoed) {
  const socket = tls.connect({ port, host: '127.0.0.1', servername: HOST, rejectUnauthorized: false });
  socket.setNoDelay(true);
  await once(socket, 'secureConnect');
  const lines = [
    'GET /echo HTTP/1.1', `Host: ${HOST}:${port}`, `Origin: https://${HOST}:${port}`, 'Upgrade: websocket',
    'Connection: Upgrade', 'Sec-WebSocket-Version: 13', 'Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==', ...headers,
  ];
  socket.write(`${lines.join('\r\n')}\r\n\r\n`);
  const [opened] = await once(socket, 'data');
  if (!opened.toString('latin1').startsWith('HTTP/1.1 101')) throw new Error(opened.toString('latin1'));
  const fail = (why) => { throw new Error(why); };
  socket.on('end', () => fail('closed'));
  const sent = message(Buffer.alloc(bytes, 'wicket'), true);
  const payload = sent.subarray(sent.length - bytes);
  let number = 0;
  const send = () => {
    number += 1;
    payload.writeUInt32BE(number);
    socket.write(sent);
  };
  let held = [];
  let length = 0;
  socket.on('data', (data) => {
    held.push(data);
    length += data.length;
    if (held.length > 1 && held[0].length < 4) held = [Buffer.concat(held)];
    const size = frame(held[0]);
    if (!size || length < size.whole) return;
    const echo = held.length > 1 ? Buffer.concat(held) : held[0];
    if (echo[0] !== 0x82 || length > size.whole) fail('another frame than was sent');
    if (echo.compare(payload, 0, bytes, size.header) !== 0) fail('the echo differs');
    held = [];
    length = 0;
    if (echoed()) send();
  });
  return send;
}

// How long the frame is that begins here, if that is known yet.
function frame(data) {
  if (data.length < 2) return null;
  const short = data[1] & 0x7f;
  const mask = data[1] & 0x80 ? 4 : 0;
  const extended = { 126: 2, 127: 8 }[short] ?? 0;
  if (data.length < 2 + extended) return null;
  const payload = extended === 2 ? data.readUInt16BE(2) : extended ? Number(data.readBigUInt64BE(2)) : short;
  return { header: 2 + extended + mask, whole: 2 + extended + mask + payload };
}

function message(payload, masked) {
  const length = payload.length;
  const head = length < 126 ? [length] : [126, length >> 8, length & 0xff];
  if (length > 0xffff) throw new Error('too long for this');
  if (masked) head[0] |= 0x80;
  return Buffer.concat([Buffer.from([0x82, ...head, ...(masked ? [0, 0, 0, 0] : [])]), payload]);
}
