// One question, in the namespaces that support/isolated.mjs made for it: question.mjs NAME CGROUP SCRATCH, with a channel to the parent.
import { mountCommand } from './support/isolated.mjs';
import { run } from './support/process.mjs';
import { loopbackCommands } from './support/services.mjs';

const [name, cgroup, scratch] = process.argv.slice(2);
const send = (message) => new Promise((resolve) => process.send(message, resolve));

try {
  for (const [command, ...args] of [...loopbackCommands, mountCommand(scratch)]) run(command, args);
  const question = await import(`./questions/${name}.mjs`);
  await send(await question.run({ cgroup, scratch, log: (text) => process.send({ log: text }) }));
} catch (error) {
  await send({ error: error.stack ?? String(error) });
  process.exitCode = 1;
}
process.disconnect();
