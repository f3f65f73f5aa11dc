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
const REFUSED = /^Failed to load resource: the server responded with a status of 40[134] /;
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

function picturePath(what) {
  pictures += 1;
  return join(folder, `${String(pictures).padStart(2, '0')}-${what}.png`);
}

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
    Object.assign(person, { name, context, page: await context.newPage(), broken: [], cut: false });
    person.watch(person.page);
    return person;
  }

  watch(page) {
    page.on('pageerror', (error) => this.broken.push(String(error)));
    page.on('console', (message) => {
      // Refused requests are part of the story; anything else that the browser complains of isn't.
      const told = message.text();
      if (message.type() !== 'error' || REFUSED.test(told)) return;
      if (this.cut && /^WebSocket connection to .* failed/.test(told)) return;
      this.broken.push(told);
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
      [response] = await Promise.all([this.page.waitForNavigation(), next.click()]);
    }
    assert.equal(this.page.url(), url, `${this.name} was led elsewhere`);
    return response.status();
  }

  /** What every page of the gate's own has, for whoever can't see it. */
  async sound(what) {
    const { scripts, headings, nameless, language, main } = await this.page.evaluate(() => {
      const all = (selector) => [...document.querySelectorAll(selector)];
      const name = (one) => one.getAttribute('aria-label') ?? one.textContent;
      return {
        scripts: all('script').length,
        headings: all('h1, h2, h3').map((one) => Number(one.tagName[1])),
        nameless: all('a, button').filter((one) => !name(one).trim()).length,
        language: document.documentElement.lang,
        main: all('main').length,
      };
    });
    assert.deepEqual({ scripts, nameless, language, main }, { scripts: 0, nameless: 0, language: 'en', main: 1 }, what);
    assert.equal(headings[0], 1, `${what} begins with its heading`);
    assert.ok(headings.slice(1).every((level) => level === 2), `${what}: ${headings}`);
    await this.page.keyboard.press('Tab');
    const first = this.page.locator(':focus');
    assert.equal((await first.innerText()).trim(), 'Skip to content', `${what}: the first stop`);
    await first.evaluate((link) => link.blur());
  }

  async picture(what) {
    await this.page.screenshot({ path: picturePath(`${this.name}-${what}`), fullPage: true });
  }

  /** The page as it is on a phone, where nothing may stick out to the side. */
  async phone(what) {
    const size = this.page.viewportSize();
    await this.page.setViewportSize({ width: 390, height: 780 });
    await this.picture(`${what}-phone`);
    const wide = await this.page.evaluate(() => document.documentElement.scrollWidth);
    assert.ok(wide <= 390, `${what} is ${wide} px wide on a phone`);
    await this.page.setViewportSize(size);
  }

  /** Clicks, and waits for the page that follows; returns its status. */
  async click(selector) {
    const button = this.page.locator(selector).first();
    const [response] = await Promise.all([this.page.waitForNavigation(), button.click()]);
    return response.status();
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
    const answered = this.page.waitForResponse((one) => one.url() === url && one.status() === 403);
    assert.equal(await this.open(url), 403, `${this.name} at ${url}`);
    const shown = await this.text('.id');
    assert.match(shown, /^[0-9A-HJKMNP-TV-Z]{26}$/);
    assert.equal((await answered).headers()['x-wicketgate-decision'], shown);
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
  await step('ada is asked who she is', async () => {
    await ada.page.goto(at('portal'));
    await ada.see('button[name=user]', 'Ada');
    await ada.picture('identity-provider');
    await ada.phone('identity-provider');
  });
  await step('ada signs in and sees the portal', async () => {
    assert.equal(await ada.open(at('portal')), 200);
    await ada.see('.who', 'ada@acme.example');
    await ada.picture('portal');
    await ada.phone('portal');
  });
  await step('ada reads and orders at her own company', async () => {
    assert.equal(await ada.open(at('portal', '/acme/orders')), 200);
    await ada.see('h1', 'Acme');
    await ada.picture('orders');
    await ada.phone('orders');
    assert.equal(await ada.click('main form button'), 200);
    await ada.see('td', 'N-3001');
  });
  await step("ada is refused the other customer's pages", async () => {
    await ada.refused(at('portal', '/globex/orders'));
    const shown = await ada.page.content();
    for (const secret of ['<table', 'Order a bearing kit']) assert.ok(!shown.includes(secret));
    await ada.sound('denial');
    await ada.picture('denial');
    await ada.phone('denial');
    await ada.page.emulateMedia({ colorScheme: 'dark' });
    await ada.phone('denial-dark');
    await ada.page.emulateMedia({ colorScheme: 'light' });
  });
  await step('ada is refused the pumping station', () => ada.refused(at('ics')));
  await step('what the gate does not have is a page too', async () => {
    assert.equal(await ada.open(at('portal', '/.wicketgate/nothing')), 404);
    await ada.sound('not-found');
    await ada.picture('not-found');
    await ada.phone('not-found');
  });
  await step('ada sees her session and signs out', async () => {
    assert.equal(await ada.open(at('portal', '/.wicketgate/me')), 200);
    await ada.see('code', '/ada');
    await ada.see('.sessions', 'ics.localhost');
    await ada.sound('session');
    await ada.picture('session');
    await ada.phone('session');
    await ada.page.emulateMedia({ colorScheme: 'dark' });
    await ada.picture('session-dark');
    await ada.page.emulateMedia({ colorScheme: 'light' });
    await ada.click('button[type=submit]');
    await ada.see('h1', /signed out/i);
    await ada.sound('signed-out');
    await ada.picture('signed-out');
    await ada.phone('signed-out');
    const cookies = await ada.context.cookies(at('portal'));
    assert.ok(!cookies.some((cookie) => cookie.name === '__Host-wicketgate'));
  });
  await step('ada signs in again, by the page that says where she is going', async () => {
    assert.equal(await ada.click('a.button'), 200);
    await ada.see('h1', 'Sign in');
    await ada.sound('sign-in');
    await ada.picture('sign-in');
    await ada.phone('sign-in');
    await ada.click('a.button');
    await ada.see('button[name=user]', 'Ada');
    await ada.click('button[name=user][value=ada]');
    assert.equal(ada.page.url(), at('portal'));
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
    await vera.phone('dashboard');
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
    await otto.see('#answer:not(.refused)', 'The set-point is 41 %');
    await otto.see('#setpoint', '41');
    await otto.picture('set-point-moved');
  });
  await step('otto stops the pump with a second factor, by a form that waits for it', async () => {
    // What he looks at comes back by itself: the stronger sign-in is a session of its own.
    otto.cut = true;
    assert.equal(await otto.click('button[name=pump][value=off]'), 401);
    await otto.sound('form kept');
    await otto.picture('form-kept');
    await otto.phone('form-kept');
    await otto.click('a.button');
    await otto.see('h1', 'One-time code');
    assert.equal(await otto.page.locator('button[name=user]').count(), 1);
    await otto.picture('second-factor');
    await otto.click('button[name=user]');
    await otto.see('h1', 'Send the form now?');
    await otto.sound('send form');
    await otto.picture('send-form');
    await otto.phone('send-form');
    await otto.click('#send');
    assert.equal(otto.page.url(), at('ics'));
    await otto.see('#turns', 'off');
    await otto.picture('pump-stopped');
  });
  await step('and starts it without being asked again', async () => {
    assert.equal(await otto.click('button[name=pump][value=on]'), 200);
    await otto.see('#turns', /^rpm$/);
  });
  await step('vera, who may not operate at all, is not asked for one', async () => {
    const other = await Person.arrive('vera');
    assert.equal(await other.open(at('ics')), 200);
    assert.equal(await other.click('button[name=pump][value=off]'), 403);
    await other.sound('refused form');
    await other.picture('pump-refused');
    await other.leave();
  });
  await step('signing out in another tab cuts the live view', async () => {
    const tab = await otto.context.newPage();
    otto.watch(tab);
    await tab.goto(at('ics', '/.wicketgate/logout'));
    await tab.screenshot({ path: picturePath('otto-sign-out'), fullPage: true });
    await tab.setViewportSize({ width: 390, height: 780 });
    await tab.screenshot({ path: picturePath('otto-sign-out-phone'), fullPage: true });
    const cut = otto.page.waitForFunction(
      () => document.getElementById('link').className.includes('off'),
      undefined,
      { polling: 50 },
    );
    await Promise.all([tab.waitForNavigation(), tab.locator('button[type=submit]').click()]);
    await cut;
    await otto.picture('live-view-cut');
  });
  await otto.leave();

  const sam = await Person.arrive('sam');
  await step('sam sees what the gate tells applications', async () => {
    assert.equal(await sam.open(at('gate')), 200);
    await sam.see('dt', 'x-wicketgate-user');
    await sam.see('dd', '/sam');
    await sam.picture('gate');
    await sam.phone('gate');
  });
  await sam.leave();
}

/** The values change and so does what is drawn. */
async function moves(person) {
  const level = await person.text('#level');
  await person.page.waitForFunction((was) => document.getElementById('level').textContent !== was, level);
  assert.notEqual(await person.text('#level'), '–');
  const drawn = await person.page.evaluate(() => document.getElementById('chart').toDataURL());
  // It is drawn when the browser gets to it, after the values.
  await person.page.waitForFunction((was) => document.getElementById('chart').toDataURL() !== was, drawn);
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
