// Signing out everywhere, in Chromium.
//
//   node tests/browser/sign_out.mjs https://app.localhost:8443 http://127.0.0.1:9000 PICTURES
//
// Wants a gate with the test's provider, where vera has one session in another browser. Exits
// non-zero at the first thing that isn't as it should be.

import assert from 'node:assert/strict';
import { mkdirSync } from 'node:fs';
import { createRequire } from 'node:module';
import { join } from 'node:path';

const require = createRequire(new URL('../node/package.json', import.meta.url));
const { chromium } = require('playwright-core');

const [gate, issuer, folder] = process.argv.slice(2);
mkdirSync(folder, { recursive: true });
const browser = await chromium.launch({
  executablePath: '/usr/bin/chromium',
  args: ['--no-sandbox', '--disable-gpu', '--no-first-run', '--disable-background-networking'],
});
const arrive = async (options) => {
  const context = await browser.newContext({ ignoreHTTPSErrors: true, ...options });
  const page = await context.newPage();
  const complaints = [];
  page.on('console', (message) => complaints.push(message.text()));
  await page.goto(`${gate}/`);
  await page.getByRole('button', { name: 'vera' }).click();
  await page.waitForURL(`${gate}/`);
  return { page, complaints };
};
try {
  const { page, complaints } = await arrive({ viewport: { width: 1100, height: 700 } });
  await page.goto(`${gate}/.wicketgate/logout`);
  await page.getByText('You have 1 other session').waitFor();
  await page.screenshot({ path: join(folder, 'wide.png'), fullPage: true });
  await page.getByRole('link', { name: '1 other session' }).click();
  await page.getByRole('heading', { name: 'Your other sessions' }).waitFor();
  await page.goBack();
  await page.setViewportSize({ width: 360, height: 640 });
  await page.screenshot({ path: join(folder, 'narrow.png'), fullPage: true });
  await page.getByRole('button', { name: 'Sign out everywhere' }).click();
  // The provider asks about its own session, and sends her back.
  await page.waitForURL(`${issuer}/**`);
  await page.getByRole('button', { name: 'Sign out' }).click();
  await page.waitForURL(`${gate}/.wicketgate/signed-out**`);
  await page.getByRole('heading', { name: 'You are signed out' }).waitFor();
  const stopped = complaints.filter((text) => text.includes('Content Security Policy'));
  assert.deepEqual(stopped, []);

  // With no other session there is nothing to choose.
  const again = await arrive({ colorScheme: 'dark', viewport: { width: 1100, height: 700 } });
  await again.page.goto(`${gate}/.wicketgate/logout`);
  assert.equal(await again.page.getByRole('button').count(), 1);
  await again.page.screenshot({ path: join(folder, 'alone.png'), fullPage: true });
} finally {
  await browser.close();
}
