// A client inside a lab: does what each line of standard input asks for and answers with a line of JSON. Commands carry an id.
//   tcp      {address, port, bind?}            one connection; reads until the server ends it
//   hold     {address, port} / drop {socket}   a TCP connection that stays / ends
//   http     {address, port, count, parallel}  many connections, one request each; who answered how often
//   udp      {family}                          a UDP socket; connect, send, recv, peer, close by its number
//   bind     {address, port, protocol}         can this be bound?
import dgram from 'node:dgram';
import http from 'node:http';
import net from 'node:net';
import { createInterface } from 'node:readline';

const sockets = new Map();
let next = 1;

const failure = (error) => ({ error: error.code ?? error.message });

function tcp({ address, port, bind }) {
  return new Promise((resolve) => {
    let body = '';
    let peer;
    const socket = net.connect({ host: address, port, ...(bind ? { localAddress: bind } : {}) });
    socket.setEncoding('utf8');
    socket.on('connect', () => {
      peer = { address: socket.remoteAddress, port: socket.remotePort };
      socket.write('GET / HTTP/1.0\r\n\r\n');
    });
    socket.on('data', (text) => (body += text));
    socket.on('error', (error) => resolve(failure(error)));
    socket.on('close', () => resolve({ peer, body: body.split('\r\n\r\n')[1]?.trim() }));
  });
}

function hold({ address, port }) {
  return new Promise((resolve) => {
    const socket = net.connect({ host: address, port });
    socket.on('error', (error) => resolve(failure(error)));
    socket.on('connect', () => {
      const id = next++;
      sockets.set(id, socket);
      resolve({ socket: id, peer: { address: socket.remoteAddress, port: socket.remotePort } });
    });
  });
}

async function many({ address, port, count, parallel = 8 }) {
  const answers = {};
  const errors = {};
  let left = count;
  const one = () =>
    new Promise((resolve) => {
      const request = http.get({ host: address, port, agent: false }, (response) => {
        let body = '';
        response.setEncoding('utf8');
        response.on('data', (text) => (body += text));
        response.on('end', () => {
          answers[body.trim()] = (answers[body.trim()] ?? 0) + 1;
          resolve();
        });
      });
      request.on('error', (error) => {
        errors[error.code] = (errors[error.code] ?? 0) + 1;
        resolve();
      });
    });
  const worker = async () => {
    while (left-- > 0) await one();
  };
  await Promise.all(Array.from({ length: parallel }, worker));
  return { answers, errors };
}

function udp({ family = 4 }) {
  const socket = dgram.createSocket(family === 6 ? 'udp6' : 'udp4');
  const id = next++;
  const waiting = [];
  const got = [];
  const errors = [];
  const settle = () => {
    while (waiting.length > 0 && (got.length > 0 || errors.length > 0)) waiting.shift()(got.length > 0 ? got.shift() : errors.shift());
  };
  socket.on('message', (data, from) => {
    got.push({ text: data.toString(), from: { address: from.address, port: from.port } });
    settle();
  });
  socket.on('error', (error) => {
    errors.push(failure(error));
    settle();
  });
  sockets.set(id, { socket, waiting, settle });
  return new Promise((resolve) => socket.bind(0, () => resolve({ socket: id, port: socket.address().port })));
}

const commands = {
  tcp,
  hold,
  http: many,
  udp,
  async drop({ socket }) {
    sockets.get(socket).destroy();
    sockets.delete(socket);
    return {};
  },
  connect({ socket, address, port }) {
    return new Promise((resolve) => {
      const { socket: s } = sockets.get(socket);
      s.connect(port, address, (error) => resolve(error ? failure(error) : { peer: s.remoteAddress() }));
    });
  },
  async disconnect({ socket }) {
    sockets.get(socket).socket.disconnect();
    return {};
  },
  peer({ socket }) {
    try {
      const { address, port } = sockets.get(socket).socket.remoteAddress();
      return { peer: { address, port } };
    } catch (error) {
      return failure(error);
    }
  },
  send({ socket, text, address, port }) {
    return new Promise((resolve) => {
      const done = (error) => resolve(error ? failure(error) : {});
      const { socket: s } = sockets.get(socket);
      try {
        if (address) s.send(text, port, address, done);
        else s.send(text, done);
      } catch (error) {
        resolve(failure(error));
      }
    });
  },
  recv({ socket, timeoutMs = 2000 }) {
    return new Promise((resolve) => {
      const s = sockets.get(socket);
      const timer = setTimeout(() => {
        s.waiting.splice(s.waiting.indexOf(give), 1);
        resolve({ error: 'timeout' });
      }, timeoutMs);
      const give = (what) => {
        clearTimeout(timer);
        resolve(what);
      };
      s.waiting.push(give);
      s.settle();
    });
  },
  async close({ socket }) {
    sockets.get(socket).socket.close();
    sockets.delete(socket);
    return {};
  },
  bind({ address, port, protocol = 'tcp' }) {
    return new Promise((resolve) => {
      const server = protocol === 'tcp' ? net.createServer() : dgram.createSocket({ type: net.isIPv6(address) ? 'udp6' : 'udp4', ipv6Only: false });
      const done = (outcome) => server.close(() => resolve(outcome));
      server.on('error', (error) => resolve(failure(error)));
      server.on('listening', () => done({ port: server.address().port }));
      if (protocol === 'tcp') server.listen(port, address);
      else server.bind(port, address);
    });
  },
};

for await (const line of createInterface({ input: process.stdin })) {
  const { id, op, ...rest } = JSON.parse(line);
  Promise.resolve(commands[op](rest))
    .catch((error) => failure(error))
    .then((answer) => process.stdout.write(`${JSON.stringify({ id, ...answer })}\n`));
}
process.exit(0);
