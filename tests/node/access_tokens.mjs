// The part of the test's provider that issues JWT access tokens (RFC 9068) for resources.
//
// The client `erp` gets its own with `client_credentials`. The grant `urn:test:user` gives it one of
// a user without the user's doing, as the end of any of the flows would: `user`, `resource`, and `x5t`
// where it is bound to a certificate.

const USER = 'urn:test:user';
export const EXCHANGE = 'urn:ietf:params:oauth:grant-type:token-exchange';

// What each resource's tokens are good for, in seconds.
const LIFETIMES = {
  'https://portal.example': 300,
  'https://other.example': 300,
  'https://brief.example': 3,
  'https://soon-over.example': 6,
  'https://backend.example': 300,
};

function info(resource) {
  if (!Object.hasOwn(LIFETIMES, resource)) throw new Error(`no such resource: ${resource}`);
  return {
    scope: 'orders:read orders:write',
    audience: resource,
    accessTokenFormat: 'jwt',
    accessTokenTTL: LIFETIMES[resource],
    jwt: { sign: { alg: 'RS256' } },
  };
}

export const clients = (secret) => [
  {
    client_id: 'erp',
    client_secret: secret,
    grant_types: ['client_credentials', USER],
    response_types: [],
    redirect_uris: [],
    token_endpoint_auth_method: 'client_secret_post',
  },
];

export const features = {
  clientCredentials: { enabled: true },
  resourceIndicators: {
    enabled: true,
    defaultResource: () => undefined,
    getResourceServerInfo: (_ctx, resource) => info(resource),
    // The library's own default: what a token is for is asked for with each grant.
    useGrantedResource: () => false,
  },
};

// What `users` are said to be stands in their tokens, as the provider's clients would have it.
export const extraTokenClaims = (users) => (_ctx, token) => {
  if (token.kind === 'ClientCredentials') return { groups: ['machines'] };
  const { groups, tenant } = users[token.accountId] ?? {};
  return { ...(groups && { groups }), ...(tenant && { tenant }) };
};

// RFC 8693, as far as the gate uses it. `sam` is not let through, and `nell` gets an answer that is
// none.
function exchange(provider) {
  provider.registerGrantType(
    EXCHANGE,
    async (ctx) => {
      const { client, params } = ctx.oidc;
      const [, claims] = params.subject_token.split('.');
      const { sub, iss } = JSON.parse(Buffer.from(claims, 'base64url'));
      const known = 'urn:ietf:params:oauth:token-type:access_token';
      if (iss !== provider.issuer || params.subject_token_type !== known || sub === 'sam') {
        ctx.status = 400;
        ctx.body = { error: 'invalid_target' };
        return;
      }
      const token = new provider.AccessToken({ accountId: sub, client, gty: EXCHANGE });
      token.resourceServer = new provider.ResourceServer(params.audience, info(params.audience));
      token.scope = params.scope;
      const access_token = sub === 'nell' ? params.subject_token : await token.save();
      ctx.body = { access_token, issued_token_type: known, token_type: 'Bearer', expires_in: 300 };
    },
    ['audience', 'scope', 'subject_token', 'subject_token_type', 'requested_token_type'],
  );
}

export function register(provider) {
  exchange(provider);
  const parameters = ['user', 'resource', 'scope', 'x5t'];
  provider.registerGrantType(
    USER,
    async (ctx) => {
      const { client, params } = ctx.oidc;
      const token = new provider.AccessToken({ accountId: params.user, client, gty: USER });
      token.resourceServer = new provider.ResourceServer(params.resource, info(params.resource));
      token.scope = params.scope;
      if (params.x5t) token['x5t#S256'] = params.x5t;
      ctx.body = { access_token: await token.save(), token_type: 'Bearer' };
    },
    parameters,
  );
}
