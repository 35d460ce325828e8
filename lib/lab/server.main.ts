// Runs the HTTP and UDP servers of one namespace of a lab, inside of that namespace.
import { createSocket, type Socket } from 'node:dgram';
import { createServer } from 'node:http';
import { isIP } from 'node:net';
import { networkInterfaces } from 'node:os';
import { formatEndpoint } from './endpoint.js';
import { answerRequests, type ServerRequests } from './protocol.js';

type Close = () => Promise<void>;

const servers = new Map<number, Close>();
let nextId = 0;

async function openHttp({ port, address, body, delayMs = 0 }: ServerRequests['http']['request']): Promise<Close> {
  const server = createServer((request, response) => {
    const { localAddress = '', localPort = port } = request.socket;
    const timer = setTimeout(() => {
      response.setHeader('content-type', 'text/plain; charset=utf-8');
      response.end(body ?? `${formatEndpoint(localAddress, localPort)}\n`);
    }, delayMs);
    response.once('close', () => clearTimeout(timer));
    request.resume();
  });
  await new Promise<void>((resolve, reject) => {
    server.once('error', reject);
    // '::' without IPV6_V6ONLY is both families.
    server.listen({ port, host: address ?? '::', ipv6Only: address !== undefined && isIP(address) === 6, backlog: 4096 }, resolve);
  });
  server.on('error', () => {}); // a connection could not be accepted
  return () =>
    new Promise((resolve) => {
      server.close(() => resolve());
      server.closeAllConnections();
    });
}

/** One socket for each address: so an answer comes from the address that was asked. */
async function openUdp({ port, address }: ServerRequests['udp']['request']): Promise<Close> {
  const sockets: Socket[] = [];
  const close: Close = async () => {
    await Promise.all(sockets.map((socket) => new Promise<void>((resolve) => socket.close(() => resolve()))));
  };
  try {
    for (const local of address === undefined ? ownAddresses() : [address]) sockets.push(await openEcho(local, port));
  } catch (error) {
    await close();
    throw error;
  }
  return close;
}

function openEcho(address: string, port: number): Promise<Socket> {
  const socket = createSocket(isIP(address) === 6 ? { type: 'udp6', ipv6Only: true } : { type: 'udp4' });
  const name = formatEndpoint(address, port);
  socket.on('message', (message, from) => {
    socket.send(Buffer.concat([Buffer.from(`${name} `), message]), from.port, from.address, () => {}); // who asked may be gone
  });
  return new Promise((resolve, reject) => {
    socket.once('error', (error) => {
      socket.close();
      reject(error);
    });
    socket.bind({ port, address, exclusive: true }, () => {
      socket.removeAllListeners('error');
      socket.on('error', () => {});
      resolve(socket);
    });
  });
}

function ownAddresses(): string[] {
  return Object.values(networkInterfaces())
    .flatMap((addresses) => addresses ?? [])
    .map(({ address }) => address)
    .filter((address) => !address.startsWith('fe80:'));
}

function register(close: Close): { id: number } {
  const id = nextId++;
  servers.set(id, close);
  return { id };
}

answerRequests<ServerRequests>({
  http: async (request) => register(await openHttp(request)),
  udp: async (request) => register(await openUdp(request)),
  async stop({ id }) {
    await servers.get(id)?.();
    servers.delete(id);
    return {};
  },
});
process.on('disconnect', () => process.exit(0));
