import path from 'node:path';
import { fileURLToPath } from 'node:url';
import ts from 'typescript';
import { expect, it } from 'vitest';

const root = path.resolve(fileURLToPath(import.meta.url), '../../..');

/** What the compiler says of one file, with the settings of the repository. */
function complaints(file: string): string[] {
  const configFile = path.join(root, 'tsconfig.json');
  const { options } = ts.parseJsonConfigFileContent(ts.readConfigFile(configFile, ts.sys.readFile).config, ts.sys, root);
  const program = ts.createProgram([path.join(root, file)], { ...options, noEmit: true });
  return ts.getPreEmitDiagnostics(program).map(({ file: at, start, messageText }) => {
    const line =
      at === undefined || start === undefined
        ? ''
        : `${path.relative(root, at.fileName)}:${at.getLineAndCharacterOfPosition(start).line + 1} `;
    return line + ts.flattenDiagnosticMessageText(messageText, '\n');
  });
}

it('take what they should and refuse what they should', () => {
  expect(complaints('test/types/api.ts')).toEqual([]);
});
