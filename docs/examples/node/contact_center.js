// A client of a contact center, as ../contact_center.py: the same commands, variables and output.
//
//     node contact_center.js pop phone +4930901820
//     node contact_center.js chat VISIT_ID
//     node contact_center.js watch [CONTACT_ID ...]
//     node contact_center.js record INTERACTION_ID VISIT_ID AGENT [DISPOSITION]
//
// PROTOS is the folder with `footfall/`; default: that of this repository.
'use strict';

const fs = require('node:fs');
const path = require('node:path');
const { promisify } = require('node:util');
const { setTimeout: sleep } = require('node:timers/promises');
const grpc = require('@grpc/grpc-js');
const loader = require('@grpc/proto-loader');
const protobuf = require('protobufjs');

const DEADLINE_MS = 2_000;
// Reasons of errors that come again, however often the call is repeated.
const LASTING = ['INVALID_FIELD', 'MALFORMED_MESSAGE', 'MESSAGE_TOO_LARGE', 'NOT_IMPLEMENTED', 'ROLE_NOT_ALLOWED'];
// What the list of a team does with a visitor who is not on the website.
const ROWS = { VISITOR_PRESENCE_LEFT: 'grey', VISITOR_PRESENCE_ENDED: 'dropped' };
const SERVICE_CONFIG = {
  loadBalancingConfig: [{ round_robin: {} }],
  methodConfig: [
    {
      name: [{}],
      retryPolicy: {
        maxAttempts: 3,
        initialBackoff: '0.05s',
        maxBackoff: '0.5s',
        backoffMultiplier: 2,
        retryableStatusCodes: ['UNAVAILABLE'],
      },
    },
  ],
  retryThrottling: { maxTokens: 10, tokenRatio: 0.1 },
};
const OPTIONS = {
  'grpc.service_config': JSON.stringify(SERVICE_CONFIG),
  'grpc.keepalive_time_ms': 30_000,
  'grpc.keepalive_timeout_ms': 5_000,
  'grpc.keepalive_permit_without_calls': 1,
  'grpc.initial_reconnect_backoff_ms': 100, // without these two up to 2 minutes pass before the next attempt
  'grpc.max_reconnect_backoff_ms': 2_000,
};

const PROTOS = process.env.PROTOS ?? path.join(__dirname, '../../../protos');
const { footfall } = grpc.loadPackageDefinition(
  loader.loadSync(
    ['collector', 'identity', 'history'].map((name) => `footfall/${name}/v1/${name}_service.proto`),
    { includeDirs: [PROTOS], longs: Number /* they fit */, enums: String, defaults: true, oneofs: true },
  ),
);

const { root: rpc } = protobuf.parse(`
  syntax = "proto3";
  message Status { repeated Detail details = 3; }
  message Detail { string type_url = 1; bytes value = 2; }
  message ErrorInfo { string reason = 1; }`);

// One client for each service, for the whole life of the process.
function open(Service, target) {
  const read = (name) => (process.env[name] ? fs.readFileSync(process.env[name]) : null);
  const credentials = process.env.CA_FILE
    ? grpc.credentials.createSsl(read('CA_FILE'), read('KEY_FILE'), read('CERT_FILE'))
    : grpc.credentials.createInsecure();
  return new Service(target, credentials, OPTIONS);
}

// A unary call with a deadline, whose answer may be compressed.
function call(client, method, request) {
  const metadata = new grpc.Metadata();
  metadata.set('x-answer-encoding', 'gzip');
  return promisify(client[method].bind(client))(request, metadata, { deadline: Date.now() + DEADLINE_MS });
}

// A caller by telephone number, e-mail address, contact, identity or visit.
async function pop(history, known, value) {
  const field = known.replace(/_(.)/g, (_, letter) => letter.toUpperCase());
  const found = await call(history, 'getCustomerContext', { [field]: value, jsonAsText: true });
  show({
    status: found.status,
    explanation: found.explanation,
    contact: found.contact?.contactId ?? '',
    candidates: found.candidates.map((candidate) => candidate.contactId),
    visits: found.visits.map((visit) => visit.visitor.visitId),
    pages: found.pages.map((page) => page.page.url),
    events: found.events.map(({ event }) => [event.event.eventName, JSON.parse(event.dataText || '{}')]),
    interactions: found.interactions.map(interactionFields),
    // Such a part is not known now. Show it as missing, not as empty.
    unavailable: found.unavailableParts,
  });
}

// The visitor of a chat. The page that opens the chat knows the visit's id.
async function chat(identity, history, visitId) {
  show(fieldsOf((await call(identity, 'getVisitor', { visitId })).visitor));
  let pages = [];
  let interactions = [];
  try {
    ({ pages } = await call(history, 'listPages', { visitId, orderBy: 'event_time desc', pageSize: 10 }));
    ({ interactions } = await call(history, 'listInteractions', { visitId }));
  } catch (error) {
    if (reasonOf(error) !== 'RESOURCE_NOT_FOUND') throw error;
    // History stores a new visit within about two seconds.
  }
  show({ pages: pages.map((page) => page.url), interactions: interactions.map(interactionFields) });
}

// The visitors on the website, then each change: of all visitors, or of contacts with each page they enter. No change
// is missed when the stream ends or identity is restarted.
async function watch(identity, ...contactIds) {
  const filters = { listFirst: true, announceProgress: true, contactIds, includePages: contactIds.length > 0 };
  let resumeToken = '';
  for (;;) {
    if (!resumeToken) show({ row: 'all dropped' }); // the list follows, also when it comes again
    try {
      for await (const message of identity.watchVisitors({ ...filters, resumeToken })) {
        resumeToken = message.resumeToken || resumeToken; // a message of the list has none
        if (!message.visitor) continue;
        const isContact = !contactIds.length || contactIds.includes(message.visitor.contactId);
        const isWanted = isContact && !message.visitor.staff;
        const row = isWanted ? ROWS[message.visitor.presence] ?? 'shown' : 'dropped';
        show({ row, changes: message.changes, ...fieldsOf(message.visitor) });
      }
    } catch (error) {
      const reason = reasonOf(error);
      if (LASTING.includes(reason)) throw error;
      if (reason === 'RESUME_TOKEN_EXPIRED') resumeToken = ''; // list again
      console.error(`The stream has ended: ${reason || grpc.status[error.code]}`);
    }
    await sleep(1_000);
  }
}

// A call about a visit: when it begins, when another agent takes it, and with a disposition when it ends.
async function record(collector, interactionId, visitId, agent, disposition) {
  const ms = Date.now();
  const updateTime = { seconds: Math.floor(ms / 1_000), nanos: (ms % 1_000) * 1_000_000 }; // also of a repeated call
  const interaction = { interactionId, visitId, channel: 'INTERACTION_CHANNEL_VOICE', agent, updateTime };
  if (disposition) Object.assign(interaction, { disposition, endTime: updateTime });
  const stored = (await call(collector, 'recordInteraction', { interaction })).interaction;
  show({ interaction: stored.interactionId, site: stored.site });
}

// The reason in google.rpc.ErrorInfo; empty for an error of gRPC itself, such as a lost connection.
function reasonOf(error) {
  const [bytes] = error.metadata?.get('grpc-status-details-bin') ?? [];
  const { details } = rpc.lookupType('Status').decode(bytes ?? Buffer.alloc(0));
  const info = details.find((detail) => detail.typeUrl.endsWith('/google.rpc.ErrorInfo'));
  return info ? rpc.lookupType('ErrorInfo').decode(info.value).reason : '';
}

// Who a visitor is, and where.
function fieldsOf({ visitId, state, identityId, contactId, contactStatus, presence, leaveTime, url }) {
  return {
    visit: visitId,
    state,
    identity: identityId,
    contact: contactId,
    contact_status: contactStatus,
    presence,
    leave_ms: leaveTime ? leaveTime.seconds * 1_000 + Math.floor(leaveTime.nanos / 1_000_000) : null,
    url,
  };
}

// Which interaction, the agent, and the disposition.
function interactionFields({ interactionId, agent, disposition }) {
  return [interactionId, agent, disposition];
}

function show(fields) {
  console.log(JSON.stringify(fields));
}

async function main() {
  const [command, ...rest] = process.argv.slice(2);
  const collector = open(footfall.collector.v1.CollectorService, process.env.COLLECTOR_TARGET);
  const identity = open(footfall.identity.v1.IdentityService, process.env.IDENTITY_TARGET);
  const history = open(footfall.history.v1.HistoryService, process.env.HISTORY_TARGET);
  if (command === 'pop') await pop(history, ...rest);
  else if (command === 'chat') await chat(identity, history, ...rest);
  else if (command === 'record') await record(collector, ...rest);
  else await watch(identity, ...rest);
  collector.close();
  identity.close();
  history.close();
}

main().catch((error) => {
  console.error(reasonOf(error), error.message);
  process.exitCode = 1;
});
