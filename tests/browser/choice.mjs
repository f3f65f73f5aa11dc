// The page with the choice of a provider, in Chromium, with and without scripts.
//
//   node tests/browser/choice.mjs https://app.localhost:8443/orders PICTURES
//
// Wants a gate with two providers, the second called "Acme Corporation". Exits non-zero at the
// first thing that isn't as it should be.

import assert from 'node:assert/strict';
import { mkdirSync } from 'node:fs';
import { createRequire } from 'node:module';
import { join } from 'node:path';

const require = createRequire(new URL('../node/package.json', import.meta.url));
const { chromium } = require('playwright-core');

const [address, folder] = process.argv.slice(2);
mkdirSync(folder, { recursive: true });
const browser = await chromium.launch({
  executablePath: '/usr/bin/chromium',
  args: ['--no-sandbox', '--disable-gpu', '--no-first-run', '--disable-background-networking'],
});
try {
  for (const [name, options] of [
    ['wide', { viewport: { width: 1100, height: 760 } }],
    ['dark', { viewport: { width: 1100, height: 760 }, colorScheme: 'dark' }],
    ['narrow', { viewport: { width: 360, height: 640 }, javaScriptEnabled: false }],
  ]) {
    const context = await browser.newContext({ ignoreHTTPSErrors: true, ...options });
    const page = await context.newPage();
    const complaints = [];
    page.on('console', (message) => complaints.push(message.text()));
    await page.goto(address);
    assert.equal(new URL(page.url()).pathname, '/.wicketgate/login');
    assert.equal(await page.getByRole('heading', { level: 1 }).innerText(), 'Choose how to sign in');
    assert.equal(await page.getByRole('listitem').count(), 2);
    assert.deepEqual(complaints, [], 'the content security policy stops nothing');
    await page.screenshot({ path: join(folder, `${name}.png`), fullPage: true });
    // By the keyboard alone: past the link that skips to the content, and the first provider.
    for (let presses = 0; presses < 3; presses += 1) await page.keyboard.press('Tab');
    const focused = page.locator(':focus');
    assert.equal(await focused.innerText(), 'Continue with Acme Corporation');
    await page.keyboard.press('Enter');
    await page.getByRole('button', { name: 'vera' }).click();
    await page.waitForURL(address);
    await context.close();
  }
} finally {
  await browser.close();
}
