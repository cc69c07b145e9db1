// The instrumentation script, as on a customer's page. The gateway also serves this shop, so both have the same host. On
// a real site the gateway's host is, for example, https://visits.example.com.
var _gt = _gt || [];
_gt.push(['config', {
  dslResource: location.origin + '/server/resources/dsl/domain-model.xml',
  site: 'demo-shop',
  debug: false,
  languageCode: document.documentElement.lang,
  httpEndpoint: location.origin,
  httpsEndpoint: location.origin
}]);
(function (id) {
  if (document.getElementById(id)) return;
  var script = document.createElement('script');
  script.id = id;
  script.src = location.origin + '/tracker.js';
  document.head.appendChild(script);
})('_gt');
