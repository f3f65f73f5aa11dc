// What a person's requests come to while she signs in, in Chromium: two tabs at once, a form that
// meets no session, a script that does, a page that needs a stronger sign-in.
//
//   node tests/browser/requests.mjs https://app.localhost:PORT http://127.0.0.1:PORT pictures
//
// The gate and the provider are the test's (tests/e2e/browser.rs). Saves a picture of each page of
// the gate's own, and exits non-zero at the first thing that isn't as it should be.

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
  args: ['--no-sandbox', '--disable-gpu', '--disable-quic', '--no-first-run'],
});

const vera = 'button[name=user][value=vera]';
const options = { ignoreHTTPSErrors: true, viewport: { width: 1100, height: 760 } };

async function arrive() {
  const context = await browser.newContext(options);
  context.setDefaultTimeout(30_000);
  return context;
}

/** Clicks, and waits until the page is somewhere else. */
async function click(page, selector, url) {
  await Promise.all([page.waitForURL(url), page.locator(selector).click()]);
}

async function loseSession(context) {
  await context.clearCookies({ name: '__Host-wicketgate' });
}

async function picture(page, name) {
  await page.screenshot({ path: join(folder, `${name}.png`), fullPage: true });
}

async function step(what, play) {
  await play();
  console.log(`  ok  ${what}`);
}

try {
  await step('two tabs sign in at once, and both get where they wanted', async () => {
    const context = await arrive();
    const tabs = [await context.newPage(), await context.newPage()];
    await Promise.all(tabs.map((tab, at) => tab.goto(`${gate}/tab-${at}`)));
    for (const tab of tabs) assert.ok(tab.url().startsWith(issuer), tab.url());
    await Promise.all(tabs.map((tab, at) => click(tab, vera, `${gate}/tab-${at}`)));
    for (const tab of tabs) {
      assert.equal((await tab.reload()).status(), 200);
      assert.equal(await tab.title(), 'Orders');
    }
    // Once more, while the provider answers at once. Whether the tabs have made one session or two
    // is a race; two and no session left would be taken for a browser that keeps none.
    await context.clearCookies({ name: /^__Host-wicketgate/ });
    const again = await Promise.all(tabs.map((tab) => tab.reload()));
    again.forEach((answer, at) => assert.equal(answer.url(), `${gate}/tab-${at}`));
    for (const tab of tabs) assert.equal((await tab.reload()).status(), 200);
    await context.close();
  });

  const context = await arrive();
  const page = await context.newPage();
  await page.goto(`${gate}/form`);
  await click(page, vera, `${gate}/form`);

  await step('a script gets 401 and a problem document, never a login page', async () => {
    await loseSession(context);
    const told = await page.evaluate(async () => {
      const answer = await fetch('/api', { headers: { accept: 'text/html' } });
      return [answer.status, answer.headers.get('content-type'), answer.redirected];
    });
    assert.deepEqual(told, [401, 'application/problem+json', false]);
    const socket = await page.evaluate(
      () => new Promise((resolve) => {
        const socket = new WebSocket(`wss://${location.host}/ws`);
        socket.onerror = () => resolve('refused');
        socket.onopen = () => resolve('open');
      }),
    );
    assert.equal(socket, 'refused');
  });

  await step('a form that meets no session is kept, shown, and sent by a click', async () => {
    await page.fill('input[name=item]', 'N-3001');
    await page.fill('input[name=password]', 'hunter2');
    const [refused] = await Promise.all([page.waitForNavigation(), page.locator('button').click()]);
    assert.equal(refused.status(), 401);
    await picture(page, 'sign-in-to-send');
    await click(page, 'a.button', /resume/);
    await picture(page, 'kept-form');
    const shown = await page.content();
    for (const word of ['/orders?x=1', 'item', 'password']) assert.ok(shown.includes(word), word);
    for (const value of ['N-3001', 'hunter2']) assert.ok(!shown.includes(value), value);
    await page.setViewportSize({ width: 390, height: 780 });
    await picture(page, 'kept-form-phone');
    const wide = await page.evaluate(() => document.documentElement.scrollWidth);
    assert.ok(wide <= 390, `${wide} px wide on a phone`);
    await page.setViewportSize(options.viewport);
    await click(page, '#send', `${gate}/orders?x=1`);
    assert.equal(await page.title(), 'Orders');
  });

  await step('a reload does not send it again', async () => {
    const answer = await page.reload();
    assert.equal(answer.status(), 410);
    await picture(page, 'form-gone');
  });

  await step('a page that needs a stronger sign-in asks for it and comes back', async () => {
    await page.goto(`${gate}/secure`);
    assert.ok(page.url().startsWith(issuer), page.url());
    await picture(page, 'step-up');
    await click(page, vera, `${gate}/secure`);
    assert.equal((await page.reload()).status(), 200);
  });

  await step('a browser that keeps no session ends on a page', async () => {
    const forgetful = await arrive();
    const tab = await forgetful.newPage();
    await tab.goto(`${gate}/`);
    await click(tab, vera, `${gate}/`);
    // As if a filter took the cookie out of every answer.
    await tab.route(`${gate}/**`, async (route) => {
      await loseSession(forgetful);
      await route.continue();
    });
    await loseSession(forgetful);
    await tab.goto(`${gate}/`);
    await loseSession(forgetful);
    const answer = await tab.goto(`${gate}/`);
    assert.equal(answer.status(), 401);
    await picture(tab, 'no-session-kept');
  });
} catch (error) {
  console.error(error.stack ?? error);
  process.exitCode = 1;
} finally {
  await browser.close();
}
