// The certified `oidc-provider` as the gate's identity provider in tests.
//
//   node provider.mjs '{"origins": ["https://app.localhost:8443"], "secret": "..."}'
//
// Prints one JSON line `{"issuer": "http://127.0.0.1:PORT"}` when it listens, and stops when its
// standard input is closed, so that it never outlives the test that started it. Signing in is one
// form post: `user=vera` to the interaction's own address. `acr` says what kind of sign-in it then
// was (else the one that was asked for), `ts` when it was, in seconds since 1970 (else now).
//
// `POST /test/rotate` has it sign with a new key, `/test/groups?user=vera&group=vendors` changes
// whose groups, `/test/revoke?user=vera` takes back what it let the gate do for her, and
// `/test/refresh-token?user=vera` tells the last refresh token that it gave for her. Between
// `/test/hold` and `/test/release` what the token endpoint has to say waits. SIGUSR2 has it go away,
// with what it knows, and come back.

import { generateKeyPairSync, randomBytes } from 'node:crypto';
import { createServer } from 'node:http';

import Provider, { interactionPolicy } from 'oidc-provider';

import * as accessTokens from './access_tokens.mjs';

const USERS = {
  ada: user('Ada Acme', ['customers'], 'acme'),
  grace: user('Grace Globex', ['customers'], 'globex'),
  vera: user('Vera Vendor', ['vendors']),
  otto: user('Otto Operator', ['ot-engineers']),
  sam: user('Sam Secure', ['security-team']),
  // Somebody of whom the provider says nothing but the subject.
  nell: {},
};

function user(name, groups, tenant) {
  const email = `${name.split(' ')[0].toLowerCase()}@${tenant ?? 'plant'}.example`;
  return { name, groups, email, email_verified: true, ...(tenant && { tenant }) };
}

// Two providers need two hosts: cookies know no ports.
const settings = JSON.parse(process.argv[2]);
const { origins, secret, client_id = 'wicketgate', host = '127.0.0.1', client = {} } = settings;
// Refresh tokens that work once: one that comes again ends the grant.
const refresh = settings.refresh === true;
const at = (path) => origins.map((origin) => origin + path);

const server = createServer();
await new Promise((resolve) => server.listen(0, '127.0.0.1', resolve));
const issuer = `http://${host}:${server.address().port}`;

let keys = 0;
function newKey() {
  const { privateKey } = generateKeyPairSync('rsa', { modulusLength: 2048 });
  keys += 1;
  return { ...privateKey.export({ format: 'jwk' }), alg: 'RS256', use: 'sig', kid: `test-${keys}` };
}

// Who is signed in as something else than what is asked for signs in again, once.
const { Check, base } = interactionPolicy;
const policy = base();
const acrNotMet = new Check('acr_not_met', 'another kind of sign-in is asked for', (ctx) => {
  const { params, session, result } = ctx.oidc;
  const asked = params.acr_values?.split(' ') ?? [];
  const met = asked.length === 0 || asked.includes(session?.acr) || result?.login;
  return met ? Check.NO_NEED_TO_PROMPT : Check.REQUEST_PROMPT;
});
policy.get('login').checks.add(acrNotMet);

// The last one of each user.
const grants = new Map();
const refreshTokens = new Map();

const configuration = {
  clients: [
    {
      client_id,
      client_secret: secret,
      grant_types: [
        'authorization_code', accessTokens.EXCHANGE, ...(refresh ? ['refresh_token'] : []),
      ],
      redirect_uris: at('/.wicketgate/callback'),
      post_logout_redirect_uris: [...at('/.wicketgate/signed-out'), ...at('/')],
      backchannel_logout_uri: at('/.wicketgate/backchannel-logout')[0],
      backchannel_logout_session_required: true,
      require_auth_time: true,
      // What the test says of the client: how it authenticates, say.
      ...client,
    },
    ...accessTokens.clients(secret),
  ],
  jwks: { keys: [newKey()] },
  cookies: { keys: [randomBytes(32).toString('hex')] },
  pkce: { required: () => true, methods: ['S256'] },
  scopes: ['openid', 'profile', 'email'],
  claims: {
    openid: ['sub', 'acr', 'amr'],
    email: ['email', 'email_verified'],
    profile: ['name', 'groups', 'tenant'],
  },
  // Every name below localhost is this machine (RFC 6761), whatever the system's resolver says.
  httpOptions: () => ({ dnsLookup: (_name, options, done) => done(null, options.all
    ? [{ address: '127.0.0.1', family: 4 }] : '127.0.0.1', 4) }),
  // The gate reads the ID token only.
  conformIdTokenClaims: false,
  extraTokenClaims: accessTokens.extraTokenClaims(USERS),
  features: {
    ...accessTokens.features,
    devInteractions: { enabled: false },
    revocation: { enabled: true },
    backchannelLogout: { enabled: true },
    rpInitiatedLogout: {
      enabled: true,
      logoutSource(ctx, form) {
        const button = '<button type="submit" form="op.logoutForm" name="logout" value="yes">';
        ctx.body = `<!doctype html><title>Sign out</title>${form}${button}Sign out</button>`;
      },
    },
  },
  acrValues: ['pwd', 'mfa'],
  issueRefreshToken: async (_ctx, client) => refresh && client.grantTypeAllowed('refresh_token'),
  rotateRefreshToken: true,
  interactions: { policy, url: (_ctx, interaction) => `/interaction/${interaction.uid}` },
  async findAccount(_ctx, id) {
    const known = USERS[id];
    return known && { accountId: id, claims: () => ({ sub: id, amr: ['pwd', 'otp'], ...known }) };
  },
  // The gate is the site's own: nobody is asked for consent.
  async loadExistingGrant(ctx) {
    const { client, session } = ctx.oidc;
    const known = session.grantIdFor(client.clientId);
    if (known) return provider.Grant.find(known);
    const grant = new provider.Grant({ clientId: client.clientId, accountId: session.accountId });
    grant.addOIDCScope('openid profile email');
    await grant.save();
    grants.set(session.accountId, grant);
    return grant;
  },
  renderError(ctx, out) {
    ctx.type = 'json';
    ctx.body = out;
  },
};

const serve = (configured) => {
  const provider = new Provider(issuer, configured);
  for (const outcome of ['success', 'error']) {
    provider.on(`backchannel.${outcome}`, (_ctx, ...of) => {
      const why = of.find((what) => what instanceof Error)?.message;
      console.log(JSON.stringify({ backchannel: outcome, ...(why && { why }) }));
    });
  }
  for (const outcome of ['success', 'error']) {
    provider.on(`grant.${outcome}`, (ctx, error) => {
      if (ctx.oidc.params?.grant_type !== 'refresh_token') return;
      const why = error?.error_detail ?? error?.message;
      console.log(JSON.stringify({ refresh: outcome, ...(why && { why }) }));
    });
  }
  provider.on('refresh_token.saved', (token) => refreshTokens.set(token.accountId, token.jti));
  accessTokens.register(provider);
  return provider;
};

// What held answers wait for.
let held;

function hold(response) {
  const { released } = held;
  const end = response.end.bind(response);
  response.end = (...body) => {
    console.log(JSON.stringify({ held: true }));
    released.then(() => end(...body));
    return response;
  };
}

let provider = serve(configuration);
let handle = provider.callback();
server.on('request', (request, response) => {
  if (request.method === 'POST' && request.url === '/test/rotate') {
    // What users and clients hold stays good: it is kept outside.
    provider = serve({ ...configuration, jwks: { keys: [newKey()] } });
    handle = provider.callback();
    response.end();
    return undefined;
  }
  const { pathname, searchParams } = new URL(request.url, issuer);
  if (request.method === 'POST' && pathname === '/test/groups') {
    USERS[searchParams.get('user')].groups = searchParams.getAll('group');
    response.end();
    return undefined;
  }
  if (request.method === 'POST' && pathname === '/test/revoke') {
    grants.get(searchParams.get('user')).destroy().then(() => response.end());
    return undefined;
  }
  if (request.method === 'POST' && pathname === '/test/refresh-token') {
    response.end(refreshTokens.get(searchParams.get('user')));
    return undefined;
  }
  if (request.method === 'POST' && pathname === '/test/hold') {
    held = {};
    held.released = new Promise((resolve) => { held.release = resolve; });
    response.end();
    return undefined;
  }
  if (request.method === 'POST' && pathname === '/test/release') {
    held.release();
    held = undefined;
    response.end();
    return undefined;
  }
  if (held && pathname === '/token') hold(response);
  if (!request.url.startsWith('/interaction/')) return handle(request, response);
  interact(request, response).catch((error) => {
    response.writeHead(400, { 'content-type': 'text/plain' }).end(String(error));
  });
});

// Goes away, and comes back.
const { port } = server.address();
process.on('SIGUSR2', () => {
  if (!server.listening) return server.listen(port, '127.0.0.1');
  server.close();
  return server.closeAllConnections();
});

async function interact(request, response) {
  // Throws unless the browser carries this interaction's cookie.
  const { uid, params } = await provider.interactionDetails(request, response);
  if (request.method === 'GET') {
    const buttons = Object.keys(USERS).map((id) => `<button name="user" value="${id}">${id}</button>`);
    response.writeHead(200, { 'content-type': 'text/html' });
    response.end(`<!doctype html><title>Sign in</title><form method="post">${buttons.join('')}</form>`);
    return;
  }
  let body = '';
  for await (const chunk of request) body += chunk;
  const form = new URLSearchParams(body);
  const accountId = form.get('user');
  if (!Object.hasOwn(USERS, accountId)) throw new Error(`no such user in interaction ${uid}`);
  const acr = form.get('acr') ?? params.acr_values?.split(' ')[0];
  const login = { accountId, amr: ['pwd', 'otp'], ...(acr && { acr }) };
  if (form.has('ts')) login.ts = Number(form.get('ts'));
  const result = { login };
  await provider.interactionFinished(request, response, result, { mergeWithLastSubmission: false });
}

console.log(JSON.stringify({ issuer }));
process.stdin.resume();
process.stdin.on('close', () => process.exit(0));
process.stdin.on('end', () => process.exit(0));
