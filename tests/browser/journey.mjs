// A person's way through the demo, in Chromium: sign in as each user, see what is shown and what
// is refused, move a set-point, sign out.
//
//   node tests/browser/journey.mjs target/release/wicketgate target/screenshots
//
// Starts `wicketgate demo` itself, saves a picture of each stop, and exits non-zero at the first
// thing that isn't as it should be.

import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { mkdirSync, rmSync } from 'node:fs';
import { createRequire } from 'node:module';
import { join } from 'node:path';
import { createInterface } from 'node:readline';

const require = createRequire(new URL('../node/package.json', import.meta.url));
const { chromium } = require('playwright-core');

const PATIENCE = 30_000;
const [binary, folder] = process.argv.slice(2);
if (!binary || !folder) {
  console.error('usage: journey.mjs WICKETGATE SCREENSHOTS');
  process.exit(2);
}
rmSync(folder, { recursive: true, force: true });
mkdirSync(folder, { recursive: true });

const demo = spawn(binary, ['demo'], { stdio: ['ignore', 'pipe', 'pipe'] });
const said = [];
const exited = new Promise((resolve) => demo.on('exit', (code, signal) => resolve(signal ?? code)));
const port = await new Promise((resolve, reject) => {
  const timer = setTimeout(() => reject(new Error('the demo never said where it is')), PATIENCE);
  const look = (line) => {
    said.push(line);
    const found = /https:\/\/portal\.localhost:(\d+)/.exec(line);
    if (found) {
      clearTimeout(timer);
      resolve(found[1]);
    }
  };
  createInterface(demo.stdout).on('line', look);
  createInterface(demo.stderr).on('line', look);
  demo.on('error', reject);
  exited.then((how) => reject(new Error(`the demo ended early (${how})`)));
}).catch(fail);

const browser = await chromium
  .launch({
    executablePath: '/usr/bin/chromium',
    args: [
      '--no-sandbox',
      '--disable-gpu',
      '--disable-quic',
      '--no-first-run',
      '--disable-background-networking',
      '--disable-component-update',
      '--disable-sync',
    ],
  })
  .catch(fail);

const at = (host, path = '/') => `https://${host}.localhost:${port}${path}`;
let pictures = 0;
let steps = 0;

/** A person with a browser of their own. */
class Person {
  static async arrive(name, options = {}) {
    const context = await browser.newContext({
      ignoreHTTPSErrors: true,
      viewport: { width: 1100, height: 760 },
      ...options,
    });
    context.setDefaultTimeout(PATIENCE);
    const person = new Person();
    Object.assign(person, { name, context, page: await context.newPage(), broken: [] });
    person.watch(person.page);
    return person;
  }

  watch(page) {
    page.on('pageerror', (error) => this.broken.push(String(error)));
    page.on('console', (message) => {
      // Refused requests are part of the story; a page that breaks its own policy isn't.
      if (/Content Security Policy/i.test(message.text())) this.broken.push(message.text());
    });
  }

  /** Goes somewhere, signing in on the way when asked to; returns the status of the page. */
  async open(url) {
    let response = await this.page.goto(url);
    for (let stop = 0; stop < 4; stop += 1) {
      const button = this.page.locator(`button[name=user][value=${this.name}]`);
      const entry = this.page.locator('a[href*="/.wicketgate/login"]');
      let next;
      if (await button.count()) next = button;
      else if (this.page.url() !== url && (await entry.count())) next = entry.first();
      else if (response?.status() === 401 && (await entry.count())) next = entry.first();
      else break;
      if (next === button) await this.picture('identity-provider');
      else await this.picture('sign-in');
      [response] = await Promise.all([this.page.waitForNavigation(), next.click()]);
    }
    assert.equal(this.page.url(), url, `${this.name} was led elsewhere`);
    return response.status();
  }

  async picture(what) {
    pictures += 1;
    const file = `${String(pictures).padStart(2, '0')}-${this.name}-${what}.png`;
    await this.page.screenshot({ path: join(folder, file), fullPage: true });
  }

  async text(selector) {
    return (await this.page.locator(selector).first().innerText()).trim();
  }

  async see(selector, words) {
    const place = this.page.locator(selector).filter({ hasText: words }).first();
    await place.waitFor({ state: 'visible' });
  }

  async choose(percent) {
    await this.page.locator('#wanted').evaluate((slider, value) => {
      slider.value = value;
      slider.dispatchEvent(new Event('input', { bubbles: true }));
    }, String(percent));
  }

  /** The refusal is a page with the decision's id. */
  async refused(url) {
    assert.equal(await this.open(url), 403, `${this.name} at ${url}`);
    assert.match(await this.text('.id'), /^[0-9A-HJKMNP-TV-Z]{26}$/);
  }

  async leave() {
    assert.deepEqual(this.broken, [], `what broke on ${this.name}'s pages`);
    await this.context.close();
  }
}

async function step(what, play) {
  await play();
  steps += 1;
  console.log(`  ok  ${what}`);
}

async function fail(error) {
  console.error(error.stack ?? error);
  console.error(`---- the demo said:\n${said.slice(-40).join('\n')}`);
  demo.kill('SIGKILL');
  process.exit(1);
}

async function journey() {
  const ada = await Person.arrive('ada');
  await step('ada signs in and sees the portal', async () => {
    assert.equal(await ada.open(at('portal')), 200);
    await ada.see('.who', 'ada@acme.example');
    await ada.picture('portal');
  });
  await step('ada reads and orders at her own company', async () => {
    assert.equal(await ada.open(at('portal', '/acme/orders')), 200);
    await ada.see('h1', 'Acme');
    await ada.picture('orders');
    const [response] = await Promise.all([
      ada.page.waitForResponse((answer) => answer.request().method() === 'POST'),
      ada.page.locator('main form button').click(),
    ]);
    assert.ok(response.status() < 400, `the order was answered ${response.status()}`);
  });
  await step("ada is refused the other customer's pages", async () => {
    await ada.refused(at('portal', '/globex/orders'));
    const shown = await ada.page.content();
    for (const secret of ['<table', 'Order a bearing kit']) assert.ok(!shown.includes(secret));
    await ada.picture('denial');
    await ada.page.setViewportSize({ width: 390, height: 780 });
    await ada.picture('denial-phone');
    const wide = await ada.page.evaluate(() => document.documentElement.scrollWidth);
    assert.ok(wide <= 390, `the page is ${wide} px wide on a phone`);
    await ada.page.emulateMedia({ colorScheme: 'dark' });
    await ada.picture('denial-phone-dark');
  });
  await step('ada is refused the pumping station', () => ada.refused(at('ics')));
  await step('ada sees her session and signs out', async () => {
    await ada.page.setViewportSize({ width: 1100, height: 760 });
    await ada.page.emulateMedia({ colorScheme: 'light' });
    assert.equal(await ada.open(at('portal', '/.wicketgate/me')), 200);
    await ada.see('code', '/ada');
    await ada.picture('session');
    await Promise.all([ada.page.waitForNavigation(), ada.page.locator('button[type=submit]').click()]);
    await ada.see('h1', /signed out/i);
    await ada.picture('signed-out');
    const cookies = await ada.context.cookies(at('portal'));
    assert.ok(!cookies.some((cookie) => cookie.name === '__Host-wicketgate'));
  });
  await ada.leave();

  const grace = await Person.arrive('grace', { colorScheme: 'dark' });
  await step('grace sees Globex and is refused Acme', async () => {
    assert.equal(await grace.open(at('portal', '/globex/documents')), 200);
    await grace.see('h1', 'Globex');
    await grace.picture('documents-dark');
    await grace.refused(at('portal', '/acme/documents'));
  });
  await step('grace reads the HTTP/1.0 archive without its password', async () => {
    assert.equal(await grace.open(at('legacy')), 200);
    await grace.see('body', 'ARCHIVE 1.4');
    await grace.picture('legacy');
  });
  await grace.leave();

  const vera = await Person.arrive('vera');
  await step('vera watches the pumping station live', async () => {
    assert.equal(await vera.open(at('ics')), 200);
    await vera.see('#link', 'Live');
    await moves(vera);
    await vera.picture('dashboard');
  });
  await step('vera may not operate, by request or by WebSocket', async () => {
    const before = await vera.text('#setpoint');
    const wanted = before === '80' ? 20 : 80;
    await vera.choose(wanted);
    await vera.page.locator('#post').click();
    await vera.see('#answer.refused', 'Decision');
    await vera.picture('set-point-refused');
    await vera.page.locator('#send').click();
    await vera.see('#answer.refused', 'Nothing changed');
    assert.equal(await vera.text('#setpoint'), before);
  });
  await step('vera is refused the portal', () => vera.refused(at('portal')));
  await vera.leave();

  const otto = await Person.arrive('otto');
  await step('otto moves the set-point, by request and by WebSocket', async () => {
    assert.equal(await otto.open(at('ics')), 200);
    await otto.see('#link', 'Live');
    await otto.choose(74);
    await otto.page.locator('#post').click();
    await otto.see('#answer:not(.refused)', 'The set-point is 74 %');
    await otto.see('#setpoint', '74');
    await otto.choose(41);
    await otto.page.locator('#send').click();
    await otto.see('#setpoint', '41');
    await otto.picture('set-point-moved');
  });
  await step('signing out in another tab cuts the live view', async () => {
    const tab = await otto.context.newPage();
    otto.watch(tab);
    await tab.goto(at('ics', '/.wicketgate/logout'));
    const cut = otto.page.waitForFunction(
      () => document.getElementById('link').className.includes('off'),
      undefined,
      { polling: 50 },
    );
    await Promise.all([tab.waitForNavigation(), tab.locator('button[type=submit]').click()]);
    const start = Date.now();
    await cut;
    assert.ok(Date.now() - start < 2000, `it took ${Date.now() - start} ms`);
    await otto.picture('live-view-cut');
  });
  await otto.leave();

  const sam = await Person.arrive('sam');
  await step('sam sees what the gate tells applications', async () => {
    assert.equal(await sam.open(at('gate')), 200);
    await sam.see('dt', 'x-wicketgate-user');
    await sam.see('dd', '/sam');
    await sam.picture('gate');
  });
  await sam.leave();
}

/** The values change and so does what is drawn. */
async function moves(person) {
  const canvas = () => person.page.evaluate(() => document.getElementById('chart').toDataURL());
  const level = await person.text('#level');
  const drawn = await canvas();
  await person.page.waitForFunction((was) => document.getElementById('level').textContent !== was, level);
  assert.notEqual(await person.text('#level'), '–');
  assert.notEqual(await canvas(), drawn, 'the chart stands still');
}

try {
  await journey();
  demo.kill('SIGINT');
  const how = await exited;
  assert.equal(how, 0, 'the demo stops cleanly on Ctrl-C');
  await browser.close();
  console.log(`\n  ${steps} steps, ${pictures} pictures in ${folder}`);
} catch (error) {
  await fail(error);
}
